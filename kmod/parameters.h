/* SPDX-License-Identifier: GPL-2.0 */
/* What parameters.rs reads. */
#ifndef HOLEY_PARAMETERS_H
#define HOLEY_PARAMETERS_H

struct dm_kcopyd_throttle *holey_copy_throttle(void);
unsigned int holey_cow_threshold(void);
unsigned int holey_queue_seconds(void);

#endif
