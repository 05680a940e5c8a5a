/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large blobs stay open for a moment after they were read: a client that reads one in ranges asks for the
 * next at once, and opening a blob of thousands of chunks costs more than sending a range of it. Few and
 * not for long, since what is open cannot be evicted. The ring's thread alone comes here.
 */
#include "fs/plane/internal.h"

enum { KEEP_MS = 1000 };

struct croft_store_blob *plane_kept_take(struct croft_plane *plane, const struct croft_digest *digest)
{
	for (size_t i = 0; i < PLANE_KEPT; i++) {
		struct plane_kept *kept = &plane->kept[i];
		if (!kept->blob || !croft_digest_equal(&kept->digest, digest))
			continue;
		struct croft_store_blob *blob = kept->blob;
		kept->blob = NULL;
		return blob;
	}
	return NULL;
}

/* Those whose time is over; the next one's sets the timer. */
static void forget(struct ring_timer *timer)
{
	struct croft_plane *plane = ring_container(timer, struct croft_plane, forget);
	uint64_t now = ring_now_ns(plane->ring), next = UINT64_MAX;
	for (size_t i = 0; i < PLANE_KEPT; i++) {
		struct plane_kept *kept = &plane->kept[i];
		if (kept->blob && kept->until_ns <= now) {
			croft_store_blob_close(kept->blob);
			kept->blob = NULL;
		} else if (kept->blob && kept->until_ns < next) {
			next = kept->until_ns;
		}
	}
	if (next < UINT64_MAX)
		ring_timer_set(plane->ring, &plane->forget, next);
}

void plane_kept_give(struct croft_plane *plane, const struct croft_digest *digest,
	struct croft_store_blob *blob)
{
	struct plane_kept *place = &plane->kept[0];
	for (size_t i = 1; i < PLANE_KEPT && place->blob; i++)
		if (!plane->kept[i].blob || plane->kept[i].until_ns < place->until_ns)
			place = &plane->kept[i];
	croft_store_blob_close(place->blob);
	*place = (struct plane_kept){
		blob, *digest, ring_now_ns(plane->ring) + KEEP_MS * UINT64_C(1000000)};
	plane->forget.run = forget;
	if (!plane->forget.set)
		ring_timer_set(plane->ring, &plane->forget, place->until_ns);
}

void plane_kept_close(struct croft_plane *plane)
{
	for (size_t i = 0; i < PLANE_KEPT; i++) {
		croft_store_blob_close(plane->kept[i].blob);
		plane->kept[i].blob = NULL;
	}
}
