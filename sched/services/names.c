/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ListNames: the directories that were given names. Records are kept by the hashes of their keys (asset.c has what
 * these are), so each page is one walk over all assets, which keeps the first names in order.
 */
#include "sched/services/internal.h"

#include "proto/base/log.h"

#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "croft/v1/farm.pb-c.h"

#include <endian.h>
#include <stdlib.h>

enum {
	PAGE_MOST = 4096,
	PAGE_BYTES = 2 << 20, /* of URIs, so that an answer stays below gRPC's usual limit */
	URI_MOST = 2048,      /* what is longer is not listed */
};

struct named {
	char *uri;
	unsigned char *value; /* its record's */
	size_t value_size;
};

struct names_page {
	const Farm__ListNamesRequest *request;
	size_t prefix_size, instance_size;
	size_t most; /* names wanted */
	/* Sorted up to `most` whenever it was full; never more than twice as many. */
	struct named *names;
	size_t count, room;
	bool cut; /* there are more behind them */
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->uri, ((const struct named *)b)->uri);
}

static void drop_names(struct names_page *page, size_t keep)
{
	for (size_t i = keep; i < page->count; i++) {
		free(page->names[i].uri);
		free(page->names[i].value);
	}
	page->count = keep;
}

static void sort_names(struct names_page *page)
{
	qsort(page->names, page->count, sizeof(*page->names), compare_names);
	if (page->count > page->most) {
		page->cut = true;
		drop_names(page, page->most);
	}
}

/* Key: 'D', the instance, NUL, the URI, NUL, and nothing behind it. NULL: another. */
static const char *uri_of(const struct names_page *page, struct croft_slice key)
{
	const char *text = key.data, *instance = page->request->instance_name;
	size_t before = 1 + page->instance_size + 1;
	if (key.size < before + 1 || text[0] != 'D' || text[key.size - 1] != '\0' ||
		memcmp(text + 1, instance, page->instance_size + 1) != 0)
		return NULL;
	const char *uri = text + before;
	size_t size = strlen(uri);
	return before + size + 1 == key.size && size > 0 && size <= URI_MOST ? uri : NULL;
}

static void see_asset(void *user, struct croft_slice key, struct croft_slice value)
{
	struct names_page *page = user;
	const char *uri = uri_of(page, key);
	if (!uri || strncmp(uri, page->request->prefix, page->prefix_size) != 0 ||
		strcmp(uri, page->request->after) <= 0)
		return;
	if (page->cut && strcmp(uri, page->names[page->most - 1].uri) >= 0)
		return;
	struct named *named = &page->names[page->count++];
	*named = (struct named){croft_strdup(uri), croft_alloc(value.size + 1), value.size};
	memcpy(named->value, value.data, value.size);
	if (page->count == page->room)
		sort_names(page);
}

/* NULL: the record cannot be read, err says why. */
static Farm__ListNamesResponse__Name *read_name(const struct named *named, struct croft_digest *root,
	struct croft_arena *arena, struct croft_error *err)
{
	uint64_t pushed;
	if (named->value_size < sizeof(pushed)) {
		croft_error_set(err, CROFT_DATA_LOSS, "its record is too short");
		return NULL;
	}
	memcpy(&pushed, named->value, sizeof(pushed));
	const Asset__FetchBlobResponse *asset = croft_message_decode(&asset__fetch_blob_response__descriptor,
		CROFT_SLICE(named->value + sizeof(pushed), named->value_size - sizeof(pushed)), arena, NULL, err);
	if (!asset || !croft_digest_from_message(asset->blob_digest, named->uri, root, err))
		return NULL;
	Farm__ListNamesResponse__Name *name = croft_arena_alloc(arena, sizeof(*name));
	farm__list_names_response__name__init(name);
	name->uri = croft_arena_strdup(arena, named->uri);
	name->root_directory_digest = asset->blob_digest;
	name->pushed_unix_ns = (int64_t)le64toh(pushed);
	return name;
}

/* As many as fit. Names whose trees have gone are left out: no more is looked at than the root, since who lists
 * names uses none of them. One bad record does not hide the others; fetching its name says what is wrong with it. */
static bool answer(struct croft_services *services, struct names_page *page, struct croft_call *call,
	struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	Farm__ListNamesResponse response = FARM__LIST_NAMES_RESPONSE__INIT;
	response.names = croft_arena_array(arena, page->count + 1, sizeof(*response.names));
	size_t bytes = 0, i = 0;
	for (; i < page->count && bytes < PAGE_BYTES; i++) {
		struct croft_digest root;
		struct croft_error bad = CROFT_ERROR_INIT;
		bool there;
		Farm__ListNamesResponse__Name *name = read_name(&page->names[i], &root, arena, &bad);
		bytes += strlen(page->names[i].uri);
		if (!name) {
			croft_log(CROFT_LOG_WARNING, "asset '%.200s': %s", page->names[i].uri, bad.message);
			continue;
		}
		if (!croft_store_has(services->store, &root, 1, &there, err))
			return false;
		if (there || croft_digest_is_empty(&root))
			response.names[response.n_names++] = name;
	}
	if (i > 0 && (page->cut || i < page->count))
		response.next_after = page->names[i - 1].uri;
	return croft_call_write(call, &response.base, err);
}

static bool list_names(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	const Farm__ListNamesRequest *request = croft_call_request(call);
	struct names_page page = {.request = request,
		.prefix_size = strlen(request->prefix),
		.instance_size = strlen(request->instance_name),
		.most = request->page_size && request->page_size < PAGE_MOST ? request->page_size : PAGE_MOST};
	page.room = 2 * page.most;
	page.names = croft_array(page.room, sizeof(*page.names));
	bool ok = croft_store_record_walk(services->store, CROFT_RECORD_ASSET, see_asset, &page, err);
	if (ok) {
		sort_names(&page);
		ok = answer(services, &page, call, err);
	}
	drop_names(&page, 0);
	free(page.names);
	return ok;
}

static const struct croft_rpc_method methods[] = {
	{"/croft.v1.Farm/ListNames", CROFT_RPC_UNARY, &farm__list_names_request__descriptor,
		&farm__list_names_response__descriptor, list_names, false},
};

void serve_names(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
