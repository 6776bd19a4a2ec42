/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What build.rs hands to bindgen. */
#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>
#include <et/com_err.h>
