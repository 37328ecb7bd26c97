//! HTTPS of the command, from a server on this machine: its certificate is believed where
//! `SSL_CERT_FILE` names it, as an institution's own is, and nowhere else.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use common::{fails, printed, uniferum};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

fn data(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    folder.join(name)
}

/// A server that answers yes to every question.
fn start() -> String {
    let certificate = CertificateDer::from_pem_file(data("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(data("server.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            // Who does not believe the certificate hangs up.
            std::thread::spawn(move || answer(stream, config).ok());
        }
    });
    url
}

fn answer(mut tcp: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = Stream::new(&mut connection, &mut tcp);
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|l| l.lines().next()?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let content = r#"{"KeySentence": "Small pleural effusion.", "PresenceOfPathology": "Yes"}"#;
    let body = serde_json::json!({"choices": [{"message": {"content": content}}]}).to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    stream.flush()
}

fn label(folder: &Path, url: &str, out: &str, certificates: &Path) -> Output {
    uniferum()
        .current_dir(folder)
        .args(["label-reports", "reports.csv", "--model", "small"])
        .args(["--task", "inspect.pleural-effusion", "--retries", "0"])
        .args(["--endpoint", url, "--out", out])
        .env("SSL_CERT_FILE", certificates)
        .output()
        .unwrap()
}

#[test]
fn a_server_is_believed_by_the_certificates_that_are_named() {
    let url = start();
    let folder = tempfile::tempdir().unwrap();
    let reports = "id,patient,report\ni1,p1,\"Small pleural effusion.\"\n";
    std::fs::write(folder.path().join("reports.csv"), reports).unwrap();
    let believed = label(folder.path(), &url, "labels", &data("server.pem"));
    let text = printed(&believed);
    assert!(text.contains("0 without an answer"), "{text}");
    let labels = std::fs::read_to_string(folder.path().join("labels/labels.csv")).unwrap();
    assert!(labels.contains("i1") && labels.contains('1'), "{labels}");

    let refused = label(folder.path(), &url, "refused", &data("stranger.pem"));
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(text.contains("1 without an answer"), "{text}{refused:?}");
    fails(&refused, "1 of 1 questions have no answer");
    assert!(folder.path().join("refused/labels.csv").is_file());
    let log = std::fs::read_to_string(folder.path().join("refused/answers.jsonl")).unwrap();
    assert!(log.contains("certificate"), "{log}");
}
