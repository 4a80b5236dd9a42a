//! Hostile requests over real sockets: each is refused with a 4xx or a clean close in time, within bounded memory, and a neighbour's
//! requests go on meanwhile.

mod live;

use std::time::{Duration, Instant};

use live::Live;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

/// For what is judged at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The stated time-outs of headers (15 s) and bodies (30 s), and some more.
const PATIENCE: Duration = Duration::from_secs(35);
/// What the server may need of memory while it refuses.
const MEMORY_BYTES: u64 = 64 << 20;

const CONTAINERS: &str = "/apis/gantry.dev/v1/namespaces/default/containers";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn connect(live: &Live) -> UnixStream {
    UnixStream::connect(live.socket()).await.expect("connect")
}

/// Sends bytes as they are and reads what comes until the server closes or has answered; the status, 0 for a close without an answer.
async fn raw(live: &Live, bytes: &[u8], patience: Duration) -> (u16, String) {
    let mut stream = connect(live).await;
    let answer = async {
        // The server may answer and close before it has read all of it.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
            if is_whole(&answer) {
                break;
            }
        }
        answer
    };
    let answer = tokio::time::timeout(patience, answer).await.unwrap_or_else(|_elapsed| {
        panic!("no answer within {patience:?} to {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))
    });
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text)
}

/// Whether an answer has come whole, by its length or its last chunk.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn post(path: &str, type_: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path, &format!("Content-Type: {type_}\r\n"), body)
}

/// Resident memory of this process, where the server runs too.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("read statm");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

/// What the neighbour has seen: requests, the longest that one took, and the most memory of the process.
#[derive(Default)]
struct Seen {
    requests: usize,
    slowest: Duration,
    resident: u64,
}

/// A server with a namespace, and somebody who writes and reads there all the time.
struct Scene {
    live: Live,
    quiet: CancellationToken,
    neighbour: tokio::task::JoinHandle<Seen>,
    resident: u64,
}

impl Scene {
    async fn set() -> Self {
        let live = Live::start().await;
        let (status, text) =
            raw(&live, &post("/api/v1/namespaces", "application/json", br#"{"metadata":{"name":"default"}}"#), AT_ONCE).await;
        assert_eq!(status, 201, "{text}");
        let quiet = CancellationToken::new();
        let stream = connect(&live).await;
        let neighbour = tokio::spawn(neighbour(stream, quiet.clone()));
        Self { live, quiet, neighbour, resident: resident_bytes() }
    }

    /// The neighbour was never disturbed, and the memory is bounded.
    async fn end(self) {
        self.quiet.cancel();
        let Seen { requests, slowest, resident } = self.neighbour.await.expect("the neighbour was answered every time");
        assert!(requests > 0 && slowest < AT_ONCE, "{requests} requests of the neighbour, the slowest took {slowest:?}");
        let grown = resident.saturating_sub(self.resident);
        assert!(grown < MEMORY_BYTES, "{} MiB more memory", grown >> 20);
        self.live.stop().await;
    }
}

/// Reads on one connection until told to stop.
async fn neighbour(mut stream: UnixStream, quiet: CancellationToken) -> Seen {
    let ask = request("GET", "/api/v1/namespaces/default", "", b"");
    let mut seen = Seen::default();
    while !quiet.is_cancelled() {
        let begin = Instant::now();
        stream.write_all(&ask).await.expect("ask");
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.expect("an answer");
            assert!(read > 0, "the neighbour's connection was closed");
            answer.extend_from_slice(&piece[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        seen.requests += 1;
        seen.slowest = seen.slowest.max(begin.elapsed());
        seen.resident = seen.resident.max(resident_bytes());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    seen
}

fn alias_bomb() -> Vec<u8> {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let alias = format!("*a{}", n - 1);
        text.push_str(&format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 9].join(", ")));
    }
    text.push_str("spec: *a11\n");
    text.into_bytes()
}

fn container(spec: &str) -> Vec<u8> {
    format!(r#"{{"apiVersion":"gantry.dev/v1","kind":"Container","metadata":{{"name":"c"}},"spec":{{"image":"a:1",{spec}}}}}"#).into_bytes()
}

/// What is wrong, the request, and what it must be answered; a status of 0 is a close without an answer.
#[expect(clippy::too_many_lines, reason = "a flat table")]
fn refused_at_once() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    const JSON: &str = "application/json";
    const YAML: &str = "application/yaml";
    let deep = |open: &str, close: &str| [open.repeat(10_000), close.repeat(10_000)].concat().into_bytes();
    let patch = |type_: &str, body: &[u8]| request("PATCH", "/api/v1/namespaces/default", &format!("Content-Type: {type_}\r\n"), body);
    let many_parameters: String = (0..10_000).map(|n| format!("p{n}=1&")).collect();
    vec![
        ("aliases that grow without end", post(CONTAINERS, YAML, &alias_bomb()), &[400]),
        (
            "aliases in an apply",
            request("PATCH", &format!("{CONTAINERS}/c?fieldManager=x"), "Content-Type: application/apply-patch+yaml\r\n", &alias_bomb()),
            &[400],
        ),
        ("deep JSON lists", post(MAPS, JSON, &deep("[", "]")), &[400]),
        ("deep JSON objects", post(MAPS, JSON, &deep("{\"a\":", "}")), &[400]),
        ("deep YAML", post(MAPS, YAML, &deep("[", "]")), &[400]),
        (
            "deep YAML by indentation",
            post(MAPS, YAML, &(0..600).flat_map(|n| format!("{}a:\n", " ".repeat(n)).into_bytes()).collect::<Vec<_>>()),
            &[400],
        ),
        ("a deep JSON patch", patch("application/json-patch+json", &deep("[", "]")), &[400]),
        ("a deep merge patch", patch("application/merge-patch+json", &deep("{\"a\":", "}")), &[400]),
        (
            "10,001 operations",
            patch(
                "application/json-patch+json",
                format!("[{}]", vec![r#"{"op":"test","path":"/kind","value":"Namespace"}"#; 10_001].join(",")).as_bytes(),
            ),
            &[413],
        ),
        ("a patch that doubles itself", patch("application/json-patch+json", doubling().as_bytes()), &[413, 422]),
        ("a huge number", post(CONTAINERS, JSON, &container(r#""ports":[{"containerPort":1e400}]"#)), &[400]),
        ("a huge integer", post(CONTAINERS, JSON, &container(r#""ports":[{"containerPort":99999999999999999999999999}]"#)), &[422]),
        (
            "a number of a million digits",
            post(CONTAINERS, JSON, &container(&format!(r#""ports":[{{"containerPort":{}}}]"#, "9".repeat(1_000_000)))),
            &[400, 422],
        ),
        ("NaN in JSON", post(CONTAINERS, JSON, &container(r#""ports":[{"containerPort":NaN}]"#)), &[400]),
        ("NaN in YAML", post(CONTAINERS, YAML, b"metadata: {name: c}\nspec: {image: 'a:1', ports: [{containerPort: .nan}]}"), &[400, 422]),
        (
            "NaN where nothing need be",
            post(CONTAINERS, YAML, b"metadata: {name: c}\nspec: {image: 'a:1', restartBackoff: {maxSeconds: .nan}}"),
            &[400],
        ),
        (
            "infinity in YAML",
            post(CONTAINERS, YAML, b"metadata: {name: c}\nspec: {image: 'a:1', resources: {limits: {cpu: .inf}}}"),
            &[400, 422],
        ),
        ("a field twice", post(CONTAINERS, JSON, &container(r#""user":"1","user":"2""#)), &[400]),
        ("the spec twice", post(CONTAINERS, JSON, br#"{"metadata":{"name":"c"},"spec":{"image":"a:1"},"spec":{"image":"b:1"}}"#), &[400]),
        ("no UTF-8 in JSON", post(MAPS, JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}"), &[400]),
        ("no UTF-8 in YAML", post(MAPS, YAML, b"metadata: {name: \xc3\x28}"), &[400]),
        ("half a surrogate", post(MAPS, JSON, br#"{"metadata":{"name":"a"},"data":{"a":"\ud800"}}"#), &[400]),
        ("a NUL in a name", post(MAPS, JSON, br#"{"metadata":{"name":"a\u0000b"}}"#), &[422]),
        ("no JSON", post(MAPS, JSON, b"<html>"), &[400]),
        ("half of it", post(MAPS, JSON, br#"{"metadata":"#), &[400]),
        ("two of them", post(MAPS, JSON, br#"{"metadata":{"name":"a"}}{"metadata":{"name":"b"}}"#), &[400]),
        ("two YAML documents", post(MAPS, YAML, b"metadata: {name: a}\n---\nmetadata: {name: b}\n"), &[400]),
        ("no object", post(MAPS, JSON, b"[]"), &[400]),
        ("metadata that is none", post(MAPS, JSON, br#"{"metadata":[1]}"#), &[400, 422]),
        ("nothing", post(MAPS, JSON, b""), &[400]),
        ("a type that is none", post(MAPS, "text/html", b"{}"), &[415]),
        ("CBOR", post(MAPS, "application/cbor", b"\xa0"), &[415]),
        ("a patch of an unknown type", patch("application/json", b"{}"), &[415]),
        ("protobuf without its mark", post(MAPS, "application/vnd.kubernetes.protobuf", b"hello"), &[400]),
        ("protobuf that ends early", post(MAPS, "application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff\xff\xff\xff\x7f"), &[400]),
        ("protobuf of another kind", post(MAPS, "application/vnd.kubernetes.protobuf", b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod"), &[415]),
        ("an answer nobody makes", request("GET", MAPS, "Accept: text/html\r\n", b""), &[406]),
        ("10,000 parameters", request("GET", &format!("{MAPS}?{many_parameters}"), "", b""), &[400, 414, 431, 0]),
        ("a URL of 100 kB", request("GET", &format!("/{}", "a".repeat(100_000)), "", b""), &[400, 404, 414, 431, 0]),
        ("a label selector of 40 kB", request("GET", &format!("{MAPS}?labelSelector={}", "a,".repeat(20_000)), "", b""), &[400]),
        ("a selector that is none", request("GET", &format!("{MAPS}?labelSelector=a%20in%20(((((("), "", b""), &[400]),
        ("a field that nobody has", request("GET", &format!("{MAPS}?fieldSelector=data.x%3D1"), "", b""), &[400]),
        ("a revision that is none", request("GET", &format!("{MAPS}?resourceVersion=-1"), "", b""), &[400]),
        ("a revision beyond all numbers", request("GET", &format!("{MAPS}?resourceVersion=99999999999999999999999"), "", b""), &[400]),
        ("a token that is none", request("GET", &format!("{MAPS}?limit=1&continue=%00%00"), "", b""), &[400]),
        ("a limit that is none", request("GET", &format!("{MAPS}?limit=lots"), "", b""), &[400]),
        ("broken percent signs", request("GET", &format!("{MAPS}?a=%zz"), "", b""), &[400]),
        ("a path that is no UTF-8", request("GET", "/api/v1/namespaces/%ff", "", b""), &[400]),
        ("a way up", request("GET", "/api/v1/namespaces/%2e%2e%2fetc%2fpasswd", "", b""), &[404]),
        ("a header of 1 MB", request("GET", MAPS, &format!("X-Large: {}\r\n", "a".repeat(1 << 20)), b""), &[400, 431, 0]),
        ("10,000 headers", request("GET", MAPS, &(0..10_000).map(|n| format!("X-{n}: 1\r\n")).collect::<String>(), b""), &[400, 431, 0]),
        ("a method that is none", request("BREW", MAPS, "", b""), &[400, 405]),
        (
            "two lengths",
            b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}".to_vec(),
            &[400, 0],
        ),
        ("a negative length", b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}".to_vec(), &[400, 0]),
        (
            "a chunk without a size",
            b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n".to_vec(),
            &[400, 0],
        ),
        (
            "a coding that is none",
            b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(),
            &[400, 501, 0],
        ),
        ("a header line folded", b"GET /version HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n 2\r\n\r\n".to_vec(), &[400, 0]),
        ("a NUL in a header", b"GET /version HTTP/1.1\r\nHost: x\r\nX-A: \0\r\n\r\n".to_vec(), &[400, 0]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n".to_vec(), &[400, 0]),
        ("an HTTP that is not yet", b"GET /version HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(), &[400, 505, 0]),
    ]
}

/// Copies a value into itself, each time twice as large.
fn doubling() -> String {
    let mut operations = vec![r#"{"op":"add","path":"/metadata/annotations","value":{"a":"x"}}"#.to_owned()];
    operations.extend((0..60).map(|n| format!(r#"{{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/a{n}"}}"#)));
    format!("[{}]", operations.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_refused_at_once() {
    let scene = Scene::set().await;
    let mut problems = Vec::new();
    for (what, bytes, expected) in refused_at_once() {
        eprintln!("{what}");
        let begin = Instant::now();
        let (status, text) = raw(&scene.live, &bytes, PATIENCE).await;
        let took = begin.elapsed();
        if !expected.contains(&status) {
            problems.push(format!("{what}: {status} and not one of {expected:?}: {}", text.chars().take(600).collect::<String>()));
        }
        if took >= AT_ONCE {
            problems.push(format!("{what}: refused after {took:?}"));
        }
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && !body.is_empty()
        {
            let status: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error}: {body}"));
            assert!(status["kind"] == "Status" && status["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {status}");
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let (_, list) = raw(&scene.live, &request("GET", CONTAINERS, "", b""), AT_ONCE).await;
    assert!(list.contains("\"items\":[]}"), "nothing of it was stored: {list}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_a_gigabyte_is_not_kept() {
    let scene = Scene::set().await;
    let mut streams = Vec::new();
    for chunked in [false, true, false, true] {
        let mut stream = connect(&scene.live).await;
        streams.push(tokio::spawn(async move {
            let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 1_u64 << 30) };
            let head = format!("POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("write the head");
            let piece = if chunked { [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat() } else { vec![b' '; 0x10000] };
            let (mut read, mut write) = stream.into_split();
            let sending = async {
                for _ in 0..(1 << 30) / 0x10000 {
                    if write.write_all(&piece).await.is_err() {
                        // Closed; the answer may still be there to read.
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut answer = vec![0; 64];
            let answered = async { read.read(&mut answer).await.unwrap_or_default() };
            let count = tokio::select! {
                count = answered => count,
                () = sending => panic!("all of it was taken"),
            };
            String::from_utf8_lossy(&answer[..count]).into_owned()
        }));
    }
    for stream in streams {
        let answer = tokio::time::timeout(PATIENCE, stream).await.expect("an answer in time").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_smuggled_behind_others_are_not_answered() {
    let scene = Scene::set().await;
    let inner = "DELETE /api/v1/namespaces/default HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        5 + inner.len()
    );
    let (status, text) = raw(&scene.live, both.as_bytes(), AT_ONCE).await;
    assert!(matches!(status, 400 | 0), "{text}");
    let (status, text) = raw(&scene.live, &request("GET", "/api/v1/namespaces/default", "", b""), AT_ONCE).await;
    assert!(status == 200 && !text.contains("deletionTimestamp"), "what was smuggled in was not done: {text}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_are_cut_off_and_hold_nobody_up() {
    let scene = Scene::set().await;
    let begins = [
        (format!("GET {MAPS} HTTP/1.1\r\nHost: x\r\n"), "X-A: 1\r\n".as_bytes(), vec![408, 0]),
        // Which HTTP these speak is not known yet.
        (String::new(), b"".as_slice(), vec![0]),
        ("PRI * HT".to_owned(), b"", vec![0]),
        (
            format!("POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"),
            b" ".as_slice(),
            vec![408],
        ),
    ];
    let mut slow = Vec::new();
    for (head, drop, expected) in begins.iter().flat_map(|begin| std::iter::repeat_n(begin.clone(), 20)) {
        let mut stream = connect(&scene.live).await;
        slow.push(tokio::spawn(async move {
            stream.write_all(head.as_bytes()).await.expect("begin");
            let (mut read, mut write) = stream.into_split();
            let dripping = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if write.write_all(drop).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut answer = [0; 64];
            let count = tokio::select! {
                count = read.read(&mut answer) => count.unwrap_or_default(),
                () = dripping => 0,
            };
            let text = String::from_utf8_lossy(&answer[..count]).into_owned();
            let status: u16 = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            assert!(expected.contains(&status), "{text}");
        }));
    }
    // Before the TLS handshake nobody is known at all.
    let mut silent = TcpStream::connect(scene.live.address).await.expect("connect");
    slow.push(tokio::spawn(async move {
        assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or_default(), 0, "it is closed without a word");
    }));
    for each in slow {
        tokio::time::timeout(PATIENCE, each).await.expect("it is cut off in time").expect("it is answered as it should be");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_every_byte_leave_nothing_behind() {
    let scene = Scene::set().await;
    let body = json!({"metadata": {"name": "cut"}, "data": {"a": "1"}}).to_string();
    let whole = post(MAPS, "application/json", body.as_bytes());
    for end in 0..whole.len() {
        let mut stream = connect(&scene.live).await;
        stream.write_all(&whole[..end]).await.expect("send a part");
        drop(stream);
    }
    let (status, text) = raw(&scene.live, &request("GET", &format!("{MAPS}/cut"), "", b""), AT_ONCE).await;
    assert_eq!(status, 404, "half a request was carried out: {text}");
    // And watches whose readers leave.
    for _ in 0..100 {
        let mut stream = connect(&scene.live).await;
        stream.write_all(&request("GET", &format!("{MAPS}?watch=true"), "", b"")).await.expect("ask");
        stream.read_u8().await.expect("the answer begins");
    }
    scene.end().await;
}
