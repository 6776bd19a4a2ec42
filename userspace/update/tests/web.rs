// SPDX-License-Identifier: GPL-2.0-or-later

//! Clients get what is published from nginx, and from servers that do not do what they should.

mod lab;

use dmholey_cow::Kind;
use dmholey_update::source::Got;
use dmholey_update::web::Options;
use dmholey_update::web::Web;
use dmholey_update::Mirrors;
use dmholey_update::Network;
use dmholey_update::Result;
use dmholey_update::Source;
use jiff::Timestamp;
use lab::quiet;
use lab::Lab;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;
use url::Url;

/// nginx over a folder: HTTP, and HTTP/2 with TLS.
struct Nginx {
    child: Child,
    dir: PathBuf,
    plain: u16,
    secure: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Nginx {
    /// Serves `web`; `more` is said to each server.
    fn start(dir: &Path, web: &Path, more: &str) -> Self {
        let dir = dir.join("nginx");
        fs::create_dir_all(&dir).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(dir.join("certificate.pem"), certificate.pem()).unwrap();
        let (plain, secure) = (free_port(), free_port());
        // Its workers would be another user, who does not get into temporary folders.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let config = format!(
            "daemon off; {user} pid nginx.pid; error_log error.log; events {{}}
             http {{
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 log_format lines '$server_protocol $status $body_bytes_sent $request_uri';
                 access_log access.log lines;
                 root {web};
                 server {{ listen 127.0.0.1:{plain}; {more} }}
                 server {{ listen 127.0.0.1:{secure} ssl; http2 on; {more}
                     ssl_certificate certificate.pem; ssl_certificate_key key.pem; }}
             }}",
            web = web.display()
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
            .arg(&dir)
            .spawn()
            .expect("nginx is needed: run the tests by scripts/test, or install nginx-light");
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", plain)).is_err() {
            let said = || fs::read_to_string(dir.join("error.log")).unwrap_or_default();
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "nginx does not start: {}",
                said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            dir,
            plain,
            secure,
        }
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}", self.plain)).unwrap()
    }

    fn secure_url(&self) -> Url {
        Url::parse(&format!("https://localhost:{}/", self.secure)).unwrap()
    }

    /// The requests so far, and forgets them.
    fn requests(&self) -> Vec<String> {
        let path = self.dir.join("access.log");
        // It writes when the answer was sent.
        std::thread::sleep(Duration::from_millis(200));
        let log = fs::read_to_string(&path).unwrap();
        fs::write(path, "").unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked to end.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A part of a file.
fn read(server: &Web, file: &str, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    server.read(file, offset, len, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

fn mirrors(options: &Options, urls: &[Url]) -> Mirrors {
    let network = Network::new(options).unwrap();
    let servers = urls
        .iter()
        .map(|url| Arc::new(network.server(url.clone())) as Arc<dyn Source>);
    Mirrors::new(servers.collect())
}

#[test]
fn a_client_is_updated() {
    let lab = Lab::published();
    let nginx = Nginx::start(lab.dir(), &lab.path("web"), "");
    let mirrors = mirrors(&Options::default(), &[nginx.url()]);
    let trust = lab.trust();
    let known = trust.ask(&mirrors).unwrap();
    assert!(!known.is_same);
    nginx.requests();
    // Nothing new costs one small request.
    let again = lab.trust().ask(&mirrors).unwrap();
    assert!(again.is_same && again.catalog == known.catalog);
    assert_eq!(
        nginx.requests(),
        ["HTTP/1.1 304 0 /metadata/timestamp.json"]
    );
    let mut client = lab.client();
    let pulled = client.pull(&mirrors, &known.catalog, None, &quiet).unwrap();
    assert!(pulled.fetched > 0);
    client.apply(&quiet).unwrap();
    lab.is(3);
    client.commit().unwrap();
    // What was fetched is not fetched again, and what changes is noticed.
    assert_eq!(
        client
            .pull(&mirrors, &known.catalog, None, &quiet)
            .unwrap()
            .fetched,
        0
    );
    lab.publish(Timestamp::now());
    let newer = trust.ask(&mirrors).unwrap();
    assert!(!newer.is_same);
}

#[test]
fn servers_speak_http_2_and_tls() {
    let lab = Lab::published();
    let nginx = Nginx::start(lab.dir(), &lab.path("web"), "");
    let options = Options {
        certificates: Some(nginx.dir.join("certificate.pem")),
        ..Options::default()
    };
    let mirrors = mirrors(&options, &[nginx.secure_url()]);
    let known = lab.trust().ask(&mirrors).unwrap();
    let mut client = lab.client();
    client.pull(&mirrors, &known.catalog, None, &quiet).unwrap();
    client.apply(&quiet).unwrap();
    lab.is(3);
    let requests = nginx.requests();
    assert!(
        requests.iter().all(|line| line.starts_with("HTTP/2.0 ")),
        "{requests:?}"
    );
    // A server that nobody vouches for is refused before anything is sent.
    let stranger = self::mirrors(&Options::default(), &[nginx.secure_url()]);
    let error = lab.trust().ask(&stranger).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(nginx.requests(), Vec::<String>::new());
}

#[test]
fn a_broken_transfer_goes_on() {
    let lab = Lab::published();
    let trust = lab.trust();
    let known = {
        let nginx = Nginx::start(lab.dir(), &lab.path("web"), "");
        trust
            .ask(&mirrors(&Options::default(), &[nginx.url()]))
            .unwrap()
    };
    let whole = known.catalog.way(1, 3).unwrap()[0].bytes;
    assert!(whole > 300_000);
    let (mut fetched, mut runs) = (0, 0);
    let mut found = 0;
    loop {
        // The link is cut after a while, which is longer each time.
        let nginx = Nginx::start(lab.dir(), &lab.path("web"), "limit_rate 200k;");
        let mirrors = mirrors(&Options::default(), &[nginx.url()]);
        let cut = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700 * (runs + 1)));
            drop(nginx);
        });
        let pulled = lab.client().pull(&mirrors, &known.catalog, Some(3), &quiet);
        cut.join().unwrap();
        match pulled {
            Ok(pulled) => {
                fetched += pulled.fetched;
                found += pulled.found;
                break;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Io, "{error}"),
        }
        runs += 1;
    }
    assert!(runs > 0, "nothing was cut");
    assert!(found > 0, "nothing was kept");
    assert!(fetched < whole);
    lab.client().apply(&quiet).unwrap();
    lab.is(3);
}

#[test]
fn the_next_mirror_is_asked() {
    let lab = Lab::published();
    let nginx = Nginx::start(lab.dir(), &lab.path("web"), "");
    // Another one has all, but with a byte changed in each delta.
    let tampered = lab.path("tampered");
    lab::copy(&lab.path("web"), &tampered);
    for entry in fs::read_dir(tampered.join("targets")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let other = lab.path("other");
    fs::create_dir(&other).unwrap();
    let bad = Nginx::start(&other, &tampered, "");
    let nobody = Url::parse(&format!("http://127.0.0.1:{}", free_port())).unwrap();
    let mirrors = mirrors(
        &Options::default(),
        &[nobody.clone(), bad.url(), nginx.url()],
    );
    let known = lab.trust().ask(&mirrors).unwrap();
    let mut client = lab.client();
    client.pull(&mirrors, &known.catalog, None, &quiet).unwrap();
    client.apply(&quiet).unwrap();
    lab.is(3);
    let alone = self::mirrors(&Options::default(), &[nobody, bad.url()]);
    fs::remove_dir_all(lab.path("client")).unwrap();
    let error = lab.trust().ask(&alone).unwrap_err().to_string();
    assert!(
        error.contains("refused") && error.contains("digest") || error.contains("Hash"),
        "{error}"
    );
}

#[test]
fn a_limit_of_the_rate_is_kept() {
    let lab = Lab::published();
    let nginx = Nginx::start(lab.dir(), &lab.path("web"), "");
    let options = Options {
        rate: NonZeroU64::new(200_000),
        ..Options::default()
    };
    fs::write(lab.path("web/file"), vec![7; 300_000]).unwrap();
    let network = Network::new(&options).unwrap();
    let begin = Instant::now();
    // Both come from one budget.
    std::thread::scope(|scope| {
        for part in 0..2 {
            let server = network.server(nginx.url());
            scope.spawn(move || {
                assert_eq!(
                    read(&server, "file", part * 150_000, 150_000)
                        .unwrap()
                        .len(),
                    150_000
                )
            });
        }
    });
    let time = begin.elapsed();
    assert!(time > Duration::from_millis(1300), "{time:?}");
}

/// A server that says the same to everybody, and keeps what it was asked.
fn stub(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (Url, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/below", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines
                .next()
                .filter(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
            {
                head += &line;
                head.push('\n');
            }
            said.lock().unwrap().push(head);
            answer(&mut stream);
        }
    });
    (Url::parse(&url).unwrap(), asked)
}

fn say(text: &'static str) -> impl Fn(&mut TcpStream) + Send + 'static {
    move |stream| stream.write_all(text.as_bytes()).unwrap()
}

#[test]
fn servers_that_misbehave_are_told_apart() {
    let network = Network::new(&Options::default()).unwrap();
    for (answer, offset, part) in [
        (
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
            0,
            "503",
        ),
        ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 0, "404"),
        ("HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n", 0, "416"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            2,
            "no ranges",
        ),
        (
            "HTTP/1.1 206 OK\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nab",
            2,
            "another range",
        ),
        (
            "HTTP/1.1 206 OK\r\nContent-Length: 2\r\n\r\nab",
            2,
            "another range",
        ),
        (
            "HTTP/1.1 206 OK\r\nContent-Range: bytes 2-2/9\r\nContent-Length: 1\r\n\r\na",
            2,
            "ended after 1 of 2",
        ),
        (
            "HTTP/1.1 206 OK\r\nContent-Range: bytes 2-3/9\r\nContent-Length: 9\r\n\r\na",
            2,
            "broke off",
        ),
        ("nonsense\r\n\r\n", 0, "error sending"),
    ] {
        let (url, _) = stub(say(answer));
        let error = read(&network.server(url), "file", offset, 2)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{answer}: {error}");
    }
    // All of a file is more than its beginning, which is taken.
    let (url, asked) = stub(say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"));
    assert_eq!(read(&network.server(url), "a/file", 0, 2).unwrap(), b"ab");
    let asked = asked.lock().unwrap()[0].to_lowercase();
    assert!(asked.starts_with("get /below/a/file http/1.1\n"), "{asked}");
    assert!(asked.contains("range: bytes=0-1\n"), "{asked}");
}

#[test]
fn endless_answers_end() {
    let network = Network::new(&Options::default()).unwrap();
    let (url, _) = stub(|stream| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut said = stream.write_all(head.as_bytes());
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while said.is_ok() {
            said = stream.write_all(chunk.as_bytes());
        }
    });
    let server = network.server(url);
    let error = server.get("file", 100_000, None).unwrap_err().to_string();
    assert!(error.contains("more than 100000 bytes"), "{error}");
    assert_eq!(read(&server, "file", 0, 5).unwrap(), b"xxxxx");
}

#[test]
fn whole_files_are_there_or_not_or_the_same() {
    let network = Network::new(&Options::default()).unwrap();
    for (answer, tag, got) in [
        (
            "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
            None,
            Got::Absent,
        ),
        (
            "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
            None,
            Got::Absent,
        ),
        ("HTTP/1.1 304 Same\r\n\r\n", Some("\"a\""), Got::Same),
        (
            "HTTP/1.1 200 OK\r\nETag: \"b\"\r\nContent-Length: 2\r\n\r\nab",
            Some("\"a\""),
            Got::File {
                bytes: b"ab".to_vec(),
                tag: Some("\"b\"".to_owned()),
            },
        ),
    ] {
        let (url, asked) = stub(say(answer));
        assert_eq!(network.server(url).get("file", 10, tag).unwrap(), got);
        let asked = asked.lock().unwrap()[0].to_lowercase();
        assert_eq!(
            asked.contains("if-none-match: \"a\"\n"),
            tag.is_some(),
            "{asked}"
        );
    }
    let (url, _) = stub(say("HTTP/1.1 304 Same\r\n\r\n"));
    network.server(url).get("file", 10, None).unwrap_err();
}

#[test]
fn a_proxy_is_asked() {
    let (proxy, asked) = stub(say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"));
    let options = Options {
        proxy: Some(proxy),
        ..Options::default()
    };
    let server = Network::new(&options)
        .unwrap()
        .server(Url::parse("http://images.invalid/x").unwrap());
    assert_eq!(read(&server, "file", 0, 2).unwrap(), b"ab");
    let asked = asked.lock().unwrap()[0].clone();
    assert!(
        asked.starts_with("GET http://images.invalid/x/file HTTP/1.1"),
        "{asked}"
    );
}

#[test]
fn certificates_have_to_be_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    for text in [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&path, text).unwrap();
        let options = Options {
            certificates: Some(path.clone()),
            ..Options::default()
        };
        let error = Network::new(&options).unwrap_err().to_string();
        assert!(
            error.contains("certificates") || error.contains("cannot be used"),
            "{text}: {error}"
        );
    }
}
