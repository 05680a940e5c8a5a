/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/origin.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

enum {
	REDIRECTS = 5,
	CONNECT_MS = 20 * 1000,
	STILL_SECONDS = 60,          /* without a byte */
	INTEGRITY_MOST = 4096,       /* characters */
	PIECE = 256 << 10,
};
#define FETCH_MOST ((uint64_t)64 << 30) /* bytes */

struct origins {
	char **prefixes;
	size_t count;
	char *folder;
};

/* URLs ----------------------------------------------------------------------------------------- */

/* As libcurl will ask for it, without "..", curl_free'd by the caller; NULL: not one of ours. What a server
 * may take for a dot or a slash of the path, after we have looked at it, is refused. */
static char *normalise(const char *uri)
{
	for (const char *at = uri; *at; at++)
		if (*at == '\\' || strncasecmp(at, "%2e", 3) == 0 || strncasecmp(at, "%2f", 3) == 0 ||
			strncasecmp(at, "%5c", 3) == 0)
			return NULL;
	CURLU *url = curl_url();
	char *scheme = NULL, *text = NULL;
	if (url && curl_url_set(url, CURLUPART_URL, uri, 0) == CURLUE_OK &&
		curl_url_set(url, CURLUPART_FRAGMENT, NULL, 0) == CURLUE_OK &&
		curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
		(strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0))
		curl_url_get(url, CURLUPART_URL, &text, 0);
	curl_free(scheme);
	curl_url_cleanup(url);
	return text;
}

static bool is_allowed(const struct origins *origins, const char *normal)
{
	for (size_t i = 0; i < origins->count; i++)
		if (strncmp(normal, origins->prefixes[i], strlen(origins->prefixes[i])) == 0)
			return true;
	return false;
}

bool origins_allow(const struct origins *origins, const char *uri)
{
	char *normal = normalise(uri);
	bool allowed = normal && is_allowed(origins, normal);
	curl_free(normal);
	return allowed;
}

struct origins *origins_create(const char *const *prefixes, size_t count, const char *folder,
	struct croft_error *err)
{
	struct origins *origins = croft_zalloc(sizeof(*origins));
	curl_global_init(CURL_GLOBAL_DEFAULT);
	origins->folder = croft_strdup(folder ? folder : "/var/tmp");
	origins->prefixes = croft_array(count + 1, sizeof(char *));
	for (size_t i = 0; i < count; i++) {
		char *normal = normalise(prefixes[i]);
		if (!normal || normal[strlen(normal) - 1] != '/') {
			croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"'%.200s' is no http or https URL that ends with a slash", prefixes[i]);
			curl_free(normal);
			origins_destroy(origins);
			return NULL;
		}
		origins->prefixes[origins->count++] = normal;
	}
	return origins;
}

void origins_destroy(struct origins *origins)
{
	if (!origins)
		return;
	for (size_t i = 0; i < origins->count; i++)
		curl_free(origins->prefixes[i]);
	free(origins->prefixes);
	free(origins->folder);
	free(origins);
	curl_global_cleanup();
}

/* Integrity ------------------------------------------------------------------------------------ */

static const char *const algorithms[] = {"sha256", "sha384", "sha512"}; /* stronger and stronger */

/* The algorithm of one of the words of `integrity`, and its hash; -1: unknown, or malformed. */
static int parse_word(const char *word, size_t size, unsigned char hash[EVP_MAX_MD_SIZE + 8])
{
	for (int i = 0; i < 3; i++) {
		size_t name = strlen(algorithms[i]);
		size_t wanted = (size_t)EVP_MD_get_size(EVP_get_digestbyname(algorithms[i]));
		if (size <= name + 1 || strncmp(word, algorithms[i], name) != 0 || word[name] != '-')
			continue;
		const char *base64 = word + name + 1;
		size_t length = strcspn(base64, "? \t\n");
		length = length < size - name - 1 ? length : size - name - 1;
		if (length != (wanted + 2) / 3 * 4)
			return -1;
		return EVP_DecodeBlock(hash, (const unsigned char *)base64, (int)length) >= (int)wanted ? i : -1;
	}
	return -1;
}

/* The strongest algorithm that it names counts, and of that any hash; with `hash` NULL: which it is. */
static int look_through(const char *integrity, int algorithm, const unsigned char *hash)
{
	int strongest = -1;
	for (const char *at = integrity; *at;) {
		unsigned char named[EVP_MAX_MD_SIZE + 8];
		size_t size = strcspn(at, " \t\n");
		int one = parse_word(at, size, named);
		if (hash && one == algorithm &&
			memcmp(named, hash, (size_t)EVP_MD_get_size(EVP_get_digestbyname(algorithms[one]))) == 0)
			return one;
		strongest = one > strongest ? one : strongest;
		at += size;
		at += strspn(at, " \t\n");
	}
	return hash ? -1 : strongest;
}

/* One fetch ------------------------------------------------------------------------------------ */

struct fetch {
	struct croft_call *call;
	CURL *curl;
	int fd;
	uint64_t size;
	struct croft_hasher *hasher;
	EVP_MD_CTX *integrity; /* NULL: not asked for */
	struct croft_error failure;
};

static size_t take(char *data, size_t size, size_t count, void *user)
{
	struct fetch *fetch = user;
	size *= count;
	long status = 0;
	curl_easy_getinfo(fetch->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200) /* the page of an error, or of a redirect */
		return size;
	if (fetch->size + size > FETCH_MOST) {
		croft_error_set(&fetch->failure, CROFT_RESOURCE_EXHAUSTED, "it is larger than %llu bytes",
			(unsigned long long)FETCH_MOST);
		return 0;
	}
	if (!croft_pwrite_all(fetch->fd, data, size, fetch->size, "what is fetched", &fetch->failure))
		return 0;
	croft_hasher_update(fetch->hasher, data, size);
	if (fetch->integrity)
		EVP_DigestUpdate(fetch->integrity, data, size);
	fetch->size += size;
	return size;
}

static int go_on(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	struct fetch *fetch = user;
	return croft_call_cancelled(fetch->call);
}

static void set_up(struct fetch *fetch, const struct origin_request *request)
{
	CURL *curl = fetch->curl;
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L); /* each step is looked at by us */
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "croft");
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STILL_SECONDS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,
		(long)(request->timeout_ms < INT32_MAX ? request->timeout_ms : INT32_MAX));
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, fetch);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, go_on);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, fetch);
}

static bool failed(struct fetch *fetch, CURLcode code, struct croft_error *err)
{
	if (croft_call_cancelled(fetch->call))
		return croft_error_set(err, CROFT_CANCELLED, "the client is gone");
	if (fetch->failure.code != CROFT_OK) {
		*err = fetch->failure;
		return false;
	}
	return croft_error_set(err,
		code == CURLE_OPERATION_TIMEDOUT ? CROFT_DEADLINE_EXCEEDED : CROFT_UNAVAILABLE, "%s",
		curl_easy_strerror(code));
}

/* To the end of all redirects. */
static bool get(const struct origins *origins, struct fetch *fetch, const char *uri,
	struct croft_error *err)
{
	char *url = normalise(uri);
	for (int i = 0;; i++) {
		if (!url || !is_allowed(origins, url)) {
			curl_free(url);
			return croft_error_set(err, CROFT_PERMISSION_DENIED, i == 0
				? "nothing is fetched from there"
				: "it is redirected to where nothing is fetched from");
		}
		curl_easy_setopt(fetch->curl, CURLOPT_URL, url);
		curl_free(url);
		CURLcode code = curl_easy_perform(fetch->curl);
		if (code != CURLE_OK)
			return failed(fetch, code, err);
		long status = 0;
		char *next = NULL;
		curl_easy_getinfo(fetch->curl, CURLINFO_RESPONSE_CODE, &status);
		curl_easy_getinfo(fetch->curl, CURLINFO_REDIRECT_URL, &next);
		if (status == 200)
			return true;
		if (status == 404 || status == 410)
			return croft_error_set(err, CROFT_NOT_FOUND, "the origin does not have it (%ld)", status);
		if (!next || status < 300 || status >= 400)
			return croft_error_set(err, CROFT_UNAVAILABLE, "the origin answered %ld", status);
		if (i == REDIRECTS)
			return croft_error_set(err, CROFT_UNAVAILABLE, "more than %d redirects", REDIRECTS);
		url = normalise(next);
	}
}

static bool is_intact(struct fetch *fetch, const char *integrity, int algorithm, struct croft_error *err)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	if (!fetch->integrity)
		return true;
	if (!EVP_DigestFinal_ex(fetch->integrity, hash, NULL))
		return croft_error_set(err, CROFT_INTERNAL, "hashing failed");
	return look_through(integrity, algorithm, hash) >= 0 ||
		croft_error_set(err, CROFT_ABORTED, "the origin's %llu bytes are not what checksum.sri says",
			(unsigned long long)fetch->size);
}

static bool store_file(struct croft_store *store, struct fetch *fetch, const struct croft_digest *digest,
	struct croft_error *err)
{
	if (croft_digest_is_empty(digest))
		return true;
	struct croft_store_writer *writer = croft_store_write(store, digest, err);
	if (!writer)
		return false;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(PIECE);
	for (uint64_t at = 0; at < fetch->size;) {
		size_t part = fetch->size - at < PIECE ? (size_t)(fetch->size - at) : PIECE;
		if (!croft_pread_all(fetch->fd, buffer, part, at, "what was fetched", err) ||
			!croft_store_writer_append(writer, buffer, part, err)) {
			croft_store_writer_abort(writer);
			return false;
		}
		at += part;
	}
	return croft_store_writer_commit(writer, err);
}

bool origin_fetch(const struct origins *origins, struct croft_store *store, struct croft_call *call,
	const struct origin_request *request, struct croft_digest *digest, struct croft_error *err)
{
	int algorithm = -1;
	if (request->integrity && (strlen(request->integrity) > INTEGRITY_MOST ||
								  (algorithm = look_through(request->integrity, -1, NULL)) < 0))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"checksum.sri names no hash of sha256, sha384 or sha512: '%.100s'", request->integrity);
	CROFT_CLEANUP_FD int fd = open(origins->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "%s: a file for what is fetched", origins->folder);
	struct fetch fetch = {.call = call, .curl = curl_easy_init(), .fd = fd, .failure = CROFT_ERROR_INIT};
	if (!fetch.curl)
		abort();
	fetch.hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	if (algorithm >= 0) {
		fetch.integrity = EVP_MD_CTX_new();
		if (!fetch.integrity ||
			!EVP_DigestInit_ex(fetch.integrity, EVP_get_digestbyname(algorithms[algorithm]), NULL))
			abort();
	}
	set_up(&fetch, request);
	bool ok = get(origins, &fetch, request->uri, err) &&
		is_intact(&fetch, request->integrity, algorithm, err);
	if (ok) {
		*digest = croft_hasher_finish(fetch.hasher);
		ok = store_file(store, &fetch, digest, err);
	}
	croft_hasher_destroy(fetch.hasher);
	EVP_MD_CTX_free(fetch.integrity);
	curl_easy_cleanup(fetch.curl);
	return ok || croft_error_wrap(err, "%.200s", request->uri);
}
