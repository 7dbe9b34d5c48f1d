//! As much of HTTP/1 as the demonstration's proxy and server need.

use std::io::{BufRead, BufReader, Read, Result};
use std::net::TcpStream;
use std::time::Duration;

/// Longest head of a request.
const HEAD_MAX: u64 = 16 << 10;
/// Time that a peer may stay silent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The head of a request.
pub(crate) struct Head {
    /// `GET / HTTP/1.1`.
    pub(crate) request: String,
    /// Names and values, as they came.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; none where the peer ends before it does.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let mut lines = Vec::new();
        let mut limited = stream.by_ref().take(HEAD_MAX);
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let mut lines = lines.into_iter();
        let Some(request) = lines.next() else {
            return Ok(None);
        };
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Ok(Some(Self {
            request,
            headers: headers.collect(),
        }))
    }

    /// The value of a header.
    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str())
    }

    /// Replaces a header, whatever it said and however often.
    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(old, _)| !old.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// As it is sent.
    pub(crate) fn text(&self) -> String {
        let headers = self.headers.iter();
        let headers: String = headers
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("{}\r\n{headers}\r\n", self.request)
    }
}

/// An answer with a text.
pub(crate) fn answer(status: &str, text: &str) -> String {
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

#[cfg(test)]
mod tests {
    use super::Head;

    #[test]
    fn a_header_is_replaced_however_it_is_written_and_however_often() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut head = Head {
            request: "GET / HTTP/1.1".to_owned(),
            headers: vec![
                header("authorization", "Bearer forged"),
                header("Host", "a"),
                header("AUTHORIZATION", "Bearer forged too"),
            ],
        };
        head.set_header("Authorization", "Bearer right");
        assert_eq!(
            head.text(),
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer right\r\n\r\n"
        );
        assert_eq!(head.header("authorization"), Some("Bearer right"));
    }
}
