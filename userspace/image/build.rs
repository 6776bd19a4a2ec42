// SPDX-License-Identifier: GPL-2.0-or-later

//! Describes libext2fs to Rust and links it.
//!
//! It is linked statically, so that the programs run where the library is not; with
//! `EXT2FS_DYNAMIC=1`, as distributions want it, it is linked as any other library.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// All that is used of it.
const FUNCTIONS: &[&str] = &[
    "error_message",
    "ext2fs_block_alloc_stats_range",
    "ext2fs_dirhash2",
    "ext2fs_extent_fix_parents",
    "ext2fs_extent_free",
    "ext2fs_extent_get",
    "ext2fs_extent_insert",
    "ext2fs_extent_open2",
    "ext2fs_find_first_set_block_bitmap2",
    "ext2fs_find_first_zero_block_bitmap2",
    "ext2fs_flush2",
    "ext2fs_free",
    "ext2fs_free_ext_attr",
    "ext2fs_inode_alloc_stats2",
    "ext2fs_new_inode",
    "ext2fs_open",
    "ext2fs_read_bitmaps",
    "ext2fs_read_dir_block4",
    "ext2fs_read_inode_full",
    "ext2fs_test_inode_bitmap2",
    "ext2fs_write_dir_block4",
    "ext2fs_write_inode_full",
    "ext2fs_xattr_get",
    "ext2fs_xattr_remove",
    "ext2fs_xattr_set",
    "ext2fs_xattrs_close",
    "ext2fs_xattrs_iterate",
    "ext2fs_xattrs_open",
    "ext2fs_xattrs_read",
    "free",
    "initialize_ext2_error_table",
    "io_channel_read_blk64",
    "io_channel_write_blk64",
];
const OTHERS: &[&str] = &[
    "unix_io_manager",
    "EXT2_FLAG_.*",
    "EXT2_EXTENT_.*",
    "EXT2_ET_.*",
];

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-env-changed=EXT2FS_DYNAMIC");
    let library = pkg_config::Config::new()
        .atleast_version("1.46")
        .cargo_metadata(false)
        .probe("ext2fs")
        .unwrap_or_else(|e| panic!("libext2fs is needed (Debian: libext2fs-dev): {e}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    let mut bindgen = Command::new("bindgen");
    bindgen.args(["wrapper.h", "--no-layout-tests", "--no-doc-comments"]);
    for name in FUNCTIONS {
        bindgen.args(["--allowlist-function", name]);
    }
    for name in OTHERS {
        bindgen.args(["--allowlist-var", name]);
    }
    bindgen.arg("--output").arg(&out);
    // Functions of the library that the header would define in place are called in the library.
    bindgen.args(["--", "-DNO_INLINE_FUNCS"]);
    bindgen.args(
        library
            .include_paths
            .iter()
            .map(|path| format!("-I{}", path.display())),
    );
    match bindgen.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("bindgen failed: {status}"),
        Err(e) => panic!("bindgen is needed (Debian: bindgen): {e}"),
    }
    let kind = match env::var_os("EXT2FS_DYNAMIC") {
        Some(value) if value != "0" => "dylib",
        _ => {
            let folder = pkg_config::get_variable("ext2fs", "libdir").unwrap_or_default();
            println!("cargo:rustc-link-search=native={folder}");
            "static"
        }
    };
    for name in ["ext2fs", "com_err"] {
        println!("cargo:rustc-link-lib={kind}={name}");
    }
}
