// SPDX-License-Identifier: GPL-2.0-or-later

//! A disk with a volatile cache that remembers, in order, everything it was asked to write and flush.
//!
//! It is served to the kernel as a network block device, one request after the other, so that there is one order of
//! all requests: a flush makes durable what was answered before it was sent, as one comes after the other.
//!
//! (dm-log-writes would be at hand, but several flushes at a time, such as those of several stores on one disk, make
//! its log wrong: a write that one of them took along is logged when that one is done, which may be after another
//! one that was sent later, and after what came behind that.)
//!
//! ```text
//! record serve IMAGE NODE LOG CONTROL   serves the content of IMAGE as NODE (/dev/nbd0) until it is told to stop
//! record mark  CONTROL NUMBER           puts a mark into the log
//! record stop  CONTROL
//! ```
//!
//! The log is a row of entries: four little-endian u64 (kind, first sector, bytes of data, mark), then the data.
//! Kinds are 0 for a write, 1 for a write with FUA, 2 for a flush, 3 for a mark.

use std::env;
use std::ffi::c_int;
use std::ffi::c_ulong;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

const SECTOR: u64 = 512;

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int;
}

const NBD_SET_SOCK: c_ulong = 0xab00;
const NBD_SET_BLKSIZE: c_ulong = 0xab01;
const NBD_DO_IT: c_ulong = 0xab03;
const NBD_CLEAR_SOCK: c_ulong = 0xab04;
const NBD_SET_SIZE_BLOCKS: c_ulong = 0xab07;
const NBD_DISCONNECT: c_ulong = 0xab08;
const NBD_SET_FLAGS: c_ulong = 0xab0a;

const HAS_FLAGS: c_ulong = 1;
const SEND_FLUSH: c_ulong = 4;
const SEND_FUA: c_ulong = 8;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u32 = 0;
const WRITE: u32 = 1;
const DISCONNECT: u32 = 2;
const FLUSH: u32 = 3;
const FUA: u32 = 1 << 16;

type Log = Arc<Mutex<BufWriter<File>>>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", image, node, log, control] => serve(image, node, log, control),
        ["mark", control, number] => tell(control, &format!("mark {number}")),
        ["stop", control] => tell(control, "stop"),
        _ => Err(io::Error::other("usage: record serve|mark|stop ... (see the head of record.rs)")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record: {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// Says something to the process that serves, and waits for its answer.
fn tell(control: &str, what: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    writeln!(stream, "{what}")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.as_str() {
        "done" => Ok(()),
        _ => Err(io::Error::other(format!("answer: {answer}"))),
    }
}

fn control(node: &File, request: c_ulong, argument: c_ulong) -> io::Result<()> {
    // SAFETY: None of the requests that are used takes a pointer.
    match unsafe { ioctl(node.as_raw_fd(), request, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn append(log: &Log, kind: u64, sector: u64, mark: u64, data: &[u8]) -> io::Result<()> {
    let mut log = log.lock().expect("nobody panics with the log");
    for word in [kind, sector, data.len() as u64, mark] {
        log.write_all(&word.to_le_bytes())?;
    }
    log.write_all(data)
}

fn serve(image: &str, node: &str, log: &str, control_path: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(image)?.read_to_end(&mut bytes)?;
    let log: Log = Arc::new(Mutex::new(BufWriter::new(File::create(log)?)));
    let node = OpenOptions::new().read(true).write(true).open(node)?;
    let (kernel, server) = UnixStream::pair()?;
    control(&node, NBD_SET_BLKSIZE, SECTOR)?;
    control(&node, NBD_SET_SIZE_BLOCKS, bytes.len() as u64 / SECTOR)?;
    control(&node, NBD_SET_FLAGS, HAS_FLAGS | SEND_FLUSH | SEND_FUA)?;
    control(&node, NBD_SET_SOCK, kernel.as_raw_fd() as c_ulong)?;
    let stopper = node.try_clone()?;
    let listener = UnixListener::bind(control_path)?;
    let marks = log.clone();
    thread::spawn(move || obey(&listener, &marks, &stopper));
    let requests = log.clone();
    let server = thread::spawn(move || answer(server, &mut bytes, &requests));
    // Returns when the kernel has disconnected.
    let ran = control(&node, NBD_DO_IT, 0);
    let served = server.join().expect("the server does not panic");
    control(&node, NBD_CLEAR_SOCK, 0)?;
    log.lock().expect("nobody panics with the log").flush()?;
    ran.and(served)
}

/// Puts marks into the log, until it is told to stop.
fn obey(listener: &UnixListener, log: &Log, node: &File) {
    for stream in listener.incoming() {
        let obeyed = stream.and_then(|mut stream| {
            let mut what = String::new();
            stream.read_to_string(&mut what)?;
            match what.trim_end().strip_prefix("mark ").map(str::parse) {
                Some(Ok(mark)) => append(log, 3, 0, mark, &[])?,
                _ => control(node, NBD_DISCONNECT, 0)?,
            }
            stream.write_all(b"done")
        });
        if let Err(error) = obeyed {
            eprintln!("record: {error}");
        }
    }
}

/// Answers the kernel's requests, one after the other.
fn answer(mut stream: UnixStream, disk: &mut [u8], log: &Log) -> io::Result<()> {
    let mut head = [0; 28];
    loop {
        stream.read_exact(&mut head)?;
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let from = u64::from_be_bytes(head[16..24].try_into().unwrap());
        let (what, len) = (word(4), word(24) as usize);
        if word(0) != REQUEST_MAGIC {
            return Err(io::Error::other("no request"));
        }
        let mut reply = Vec::with_capacity(16 + len);
        reply.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
        reply.extend_from_slice(&0u32.to_be_bytes());
        reply.extend_from_slice(&head[8..16]);
        match what & 0xffff {
            READ => reply.extend_from_slice(&disk[from as usize..from as usize + len]),
            WRITE => {
                let place = &mut disk[from as usize..from as usize + len];
                stream.read_exact(place)?;
                append(log, u64::from(what & FUA != 0), from / SECTOR, 0, place)?;
            }
            FLUSH => append(log, 2, 0, 0, &[])?,
            DISCONNECT => return Ok(()),
            other => return Err(io::Error::other(format!("request {other}"))),
        }
        stream.write_all(&reply)?;
    }
}
