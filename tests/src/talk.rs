//! A conversation over TCP with an echo server, which goes on for as long as a test likes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use crate::deadline::SOON;
use crate::netns::NetNs;
use crate::server::PORT;

/// What was lost may have to wait for its next retransmission.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream to an echo server.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
    said: u32,
    heard: u32,
}

impl Talk {
    /// Connects from a namespace, and exchanges a first word.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn open(netns: &NetNs, remote: IpAddr) -> Self {
        let address = (remote, PORT).into();
        let stream = netns.run(|| TcpStream::connect_timeout(&address, SOON));
        let stream = stream.unwrap_or_else(|error| panic!("{remote}: {error}"));
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("an open socket");
        let mut talk = Self {
            stream,
            said: 0,
            heard: 0,
        };
        talk.exchange();
        talk
    }

    /// Says something that is answered later.
    ///
    /// # Panics
    /// When the stream has ended.
    pub fn say(&mut self) {
        self.try_say().expect("the stream lives");
    }

    fn try_say(&mut self) -> io::Result<()> {
        self.said += 1;
        self.stream.write_all(&self.said.to_be_bytes())
    }

    /// Takes every answer that is owed.
    ///
    /// # Errors
    /// Where the stream ends, or nothing comes.
    ///
    /// # Panics
    /// Where the answers are not what was said.
    pub fn try_hear(&mut self) -> io::Result<()> {
        while self.heard < self.said {
            let mut answer = [0; 4];
            self.stream.read_exact(&mut answer)?;
            self.heard += 1;
            assert_eq!(u32::from_be_bytes(answer), self.heard, "in order");
        }
        Ok(())
    }

    /// Says something, and takes the answer.
    ///
    /// # Errors
    /// Where the stream ends, or nothing comes.
    pub fn try_exchange(&mut self) -> io::Result<()> {
        self.try_say()?;
        self.try_hear()
    }

    /// The same for a stream that lives.
    ///
    /// # Panics
    /// When it does not.
    pub fn exchange(&mut self) {
        self.try_exchange().expect("the stream lives");
    }
}
