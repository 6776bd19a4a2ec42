/* SPDX-License-Identifier: GPL-2.0 */
#ifndef DM_RS_PARAMETERS_H
#define DM_RS_PARAMETERS_H

#include <linux/device-mapper.h>
#include <linux/dm-kcopyd.h>

struct dm_kcopyd_throttle *dm_rs_copy_throttle(void);
unsigned int dm_rs_cow_threshold(void);
unsigned int dm_rs_queue_seconds(void);

#endif
