/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sandbox/: a process beside a job's keeper that answers system calls in the kernel's place, for jobs that
 * ask for it.
 */
#ifndef CROFT_SANDBOX_ANSWERS_H
#define CROFT_SANDBOX_ANSWERS_H

#include "sandbox/internal.h"

#include <linux/seccomp.h>

/* Takes over the listener of `denials`, to whose calls it adds until it ends. */
bool answers_start(struct answers *answers, struct denials *denials, struct croft_error *err);
/* When nobody is left who could call. */
void answers_end(struct answers *answers, struct denials *denials);

/* What a call returns, or minus errno; or the kernel is to answer it. */
#define ANSWER_BY_KERNEL INT64_MIN
bool answers_still_waits(int listener, const struct seccomp_notif *asked);

/* sorted.c */
struct sorted;
struct sorted *sorted_create(void);
int64_t sorted_answer(struct sorted *sorted, int listener, const struct seccomp_notif *asked);

#endif
