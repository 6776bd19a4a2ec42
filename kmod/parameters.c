// SPDX-License-Identifier: GPL-2.0
/* Module parameters that may be written to while the module is in use; see parameters.rs. */
#include <linux/device-mapper.h>
#include <linux/dm-kcopyd.h>
#include <linux/module.h>

#include "parameters.h"

static struct dm_kcopyd_throttle copy_throttle = { .throttle = 100 };
module_param_named(snapshot_copy_throttle, copy_throttle.throttle, uint, 0644);
MODULE_PARM_DESC(snapshot_copy_throttle, "percentage of time in which chunks are copied");

static unsigned int cow_threshold = 16384;
module_param_named(snapshot_cow_threshold, cow_threshold, uint, 0644);
MODULE_PARM_DESC(snapshot_cow_threshold, "exceptions that a snapshot makes at a time (at most 16384)");

static unsigned int queue_seconds;
module_param_named(queue_if_no_space, queue_seconds, uint, 0644);
MODULE_PARM_DESC(queue_if_no_space,
		 "seconds that writers wait for space if the table says nothing about it (0: not at all)");

struct dm_kcopyd_throttle *holey_copy_throttle(void)
{
	return &copy_throttle;
}

unsigned int holey_cow_threshold(void)
{
	return READ_ONCE(cow_threshold);
}

unsigned int holey_queue_seconds(void)
{
	return READ_ONCE(queue_seconds);
}
