/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Certificates made on the spot: an authority, and what it signs. */
#ifndef CROFT_TESTS_UNIT_PROTO_CERTIFICATES_H
#define CROFT_TESTS_UNIT_PROTO_CERTIFICATES_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

struct certified {
	EVP_PKEY *key;
	X509 *certificate;
};

static inline void certified_free(struct certified *certified)
{
	EVP_PKEY_free(certified->key);
	X509_free(certified->certificate);
}

static inline void certificate_extend(X509 *certificate, X509 *issuer, int what, const char *value)
{
	X509V3_CTX context;
	X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
	if (!extension || !X509_add_ext(certificate, extension, -1))
		abort();
	X509_EXTENSION_free(extension);
}

/* signer NULL: an authority that signs itself. For 127.0.0.1, one hour. */
static inline struct certified certified_create(const char *name, const struct certified *signer)
{
	static int serial;
	struct certified made = {EVP_EC_gen("P-256"), X509_new()};
	X509 *certificate = made.certificate;
	const struct certified *by = signer ? signer : &made;
	X509_set_version(certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
		(const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(certificate, X509_get_subject_name(by->certificate));
	X509_set_pubkey(certificate, made.key);
	if (signer)
		certificate_extend(certificate, by->certificate, NID_subject_alt_name, "IP:127.0.0.1");
	else
		certificate_extend(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
	if (!X509_sign(certificate, by->key, EVP_sha256()))
		abort();
	return made;
}

/* Writes folder/name.crt and folder/name.key. */
static inline void certified_write(const struct certified *certified, const char *folder,
	const char *name)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s.crt", folder, name);
	FILE *file = fopen(path, "w");
	if (!file || !PEM_write_X509(file, certified->certificate) || fclose(file) != 0)
		abort();
	snprintf(path, sizeof(path), "%s/%s.key", folder, name);
	file = fopen(path, "w");
	if (!file || !PEM_write_PrivateKey(file, certified->key, NULL, NULL, 0, NULL, NULL) ||
		fclose(file) != 0)
		abort();
}

#endif
