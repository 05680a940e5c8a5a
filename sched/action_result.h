/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Moved: the blob plane keeps action results, too. */
#include "fs/action_result.h"
