//! How processes meet before a library connects them: process 0 hands a few bytes to all others.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::Launch;
use crate::error::{Error, Result};

/// The port that PyTorch's launchers use where nothing else is said.
const PORT: u16 = 29500;
/// How long processes may start one after the other.
const PATIENCE: Duration = Duration::from_secs(300);
/// What one that was let in may take to say who it is.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Tells this project's processes from whatever else may knock.
const MAGIC: &[u8; 8] = b"uniferum";
/// The magic, then rank and world as little-endian `u32`.
const GREETING: usize = 16;

/// Where process 0 waits for the others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Meeting {
    host: String,
    port: u16,
    rank: usize,
    world: usize,
    patience: Duration,
}

fn is_loopback(listener: &TcpListener) -> bool {
    let address = listener.local_addr();
    address.is_ok_and(|address| address.ip().is_loopback())
}

impl Meeting {
    /// The place that the launcher names: `MASTER_ADDR` and `MASTER_PORT`; without them this machine if
    /// all processes are here, or the first node of a Slurm job.
    ///
    /// # Errors
    /// [`Error::Distributed`] where there is no such place, or the port is not a number.
    #[cfg(feature = "nccl")]
    pub(super) fn from_env(launch: &Launch) -> Result<Self> {
        Self::from_variables(launch, |name| std::env::var(name).ok())
    }

    fn from_variables(launch: &Launch, get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let port = match get("MASTER_PORT") {
            None => PORT,
            Some(text) => text.trim().parse().map_err(|_| {
                Error::Distributed(format!("MASTER_PORT: expected a port, got {text:?}"))
            })?,
        };
        // torchrun itself listens at the port that it announces if it says so.
        let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True");
        let host = get("MASTER_ADDR").or_else(|| {
            let here = [
                "OMPI_COMM_WORLD_LOCAL_SIZE",
                "MPI_LOCALNRANKS",
                "LOCAL_WORLD_SIZE",
            ];
            let here = here.iter().find_map(|n| get(n)?.trim().parse().ok());
            if here == Some(launch.world) {
                return Some("127.0.0.1".to_owned());
            }
            let nodes = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
            first_node(&nodes.iter().find_map(|n| get(n))?)
        });
        let host = host.ok_or_else(|| {
            let what = "the processes are on several machines: set MASTER_ADDR to the machine of \
                        process 0 (and MASTER_PORT if 29500 is taken) for all of them, with mpirun \
                        by -x MASTER_ADDR=HOST";
            Error::Distributed(what.to_owned())
        })?;
        Ok(Self {
            host,
            port: if taken { port.saturating_add(1) } else { port },
            rank: launch.rank,
            world: launch.world,
            patience: PATIENCE,
        })
    }

    /// The bytes that process 0 makes, for every process.
    ///
    /// # Errors
    /// [`Error::Distributed`] when the others do not come in time, or this is the wrong place.
    pub(super) fn share<const N: usize>(
        &self,
        make: impl FnOnce() -> Result<[u8; N]>,
    ) -> Result<[u8; N]> {
        if self.rank > 0 {
            return self.fetch();
        }
        // Whoever cannot make the bytes must not let the others in.
        let bytes = make()?;
        self.hand_out(&self.listen()?, &bytes)?;
        Ok(bytes)
    }

    fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn listen(&self) -> Result<TcpListener> {
        let host = (self.host.as_str(), self.port);
        let everywhere = || TcpListener::bind(("0.0.0.0", self.port));
        let listener = match TcpListener::bind(host) {
            // Many systems give a machine's own name such an address, which others cannot reach.
            Ok(own) if is_loopback(&own) && !self.is_local() => {
                drop(own);
                everywhere()
            }
            // The name may be one that others know this machine by.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => everywhere(),
            listener => listener,
        };
        listener.map_err(|e| {
            Error::Distributed(format!(
                "process 0 cannot listen at {}: {e} (MASTER_PORT chooses another port)",
                self.place()
            ))
        })
    }

    /// Whether the host's name asks for processes of this machine alone.
    fn is_local(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    fn hand_out(&self, listener: &TcpListener, bytes: &[u8]) -> Result<()> {
        let broken = |e| Error::Distributed(format!("waiting at {}: {e}", self.place()));
        listener.set_nonblocking(true).map_err(broken)?;
        let deadline = Instant::now() + self.patience;
        let mut served = BTreeSet::new();
        while served.len() + 1 < self.world {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A stranger, or one that hung up: the others are still waited for.
                    if let Some(rank) = self.serve(stream, bytes, &served) {
                        served.insert(rank);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(e) => return Err(broken(e)),
            }
            if Instant::now() > deadline {
                let missing: Vec<String> = (1..self.world)
                    .filter(|rank| !served.contains(rank))
                    .map(|rank| rank.to_string())
                    .collect();
                return Err(Error::Distributed(format!(
                    "process 0 waited {} s at {} for the processes {}",
                    self.patience.as_secs(),
                    self.place(),
                    missing.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The rank of a member that was given the bytes.
    fn serve(
        &self,
        mut stream: TcpStream,
        bytes: &[u8],
        served: &BTreeSet<usize>,
    ) -> Option<usize> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(GREETING_PATIENCE)).ok()?;
        let mut greeting = [0; GREETING];
        stream.read_exact(&mut greeting).ok()?;
        let (rank, world) = read_greeting(&greeting)?;
        let expected = world == self.world && (1..world).contains(&rank);
        if !expected || served.contains(&rank) {
            return None;
        }
        stream.write_all(bytes).ok()?;
        Some(rank)
    }

    fn fetch<const N: usize>(&self) -> Result<[u8; N]> {
        let mut stream = self.connect()?;
        let mut bytes = [0; N];
        let answered = stream
            .write_all(&greeting(self.rank, self.world))
            .and_then(|()| stream.set_read_timeout(Some(self.patience)))
            .and_then(|()| stream.read_exact(&mut bytes));
        answered.map_err(|e| {
            Error::Distributed(format!(
                "process {} of {} was sent away at {}: {e} (is that process 0 of another job? \
                 MASTER_PORT chooses another port)",
                self.rank,
                self.world,
                self.place()
            ))
        })?;
        Ok(bytes)
    }

    /// Knocks until process 0 listens.
    fn connect(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + self.patience;
        loop {
            let error = match self.knock() {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(Error::Distributed(format!(
                    "process {} found nobody at {} for {} s: {error} (MASTER_ADDR and MASTER_PORT \
                     say where process 0 is)",
                    self.rank,
                    self.place(),
                    self.patience.as_secs()
                )));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn knock(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, GREETING_PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn greeting(rank: usize, world: usize) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&(rank as u32).to_le_bytes());
    bytes[12..].copy_from_slice(&(world as u32).to_le_bytes());
    bytes
}

fn read_greeting(bytes: &[u8; GREETING]) -> Option<(usize, usize)> {
    let number = |at: usize| -> Option<usize> {
        let four = bytes[at..at + 4].try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    (&bytes[..8] == MAGIC).then_some((number(8)?, number(12)?))
}

/// The first of a list such as `gpu[003-005,9],login1`.
fn first_node(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(rest) = rest.strip_prefix('[') else {
        return (!name.is_empty()).then(|| name.to_owned());
    };
    let (numbers, rest) = rest.split_once(']')?;
    let first = numbers.split([',', '-']).next()?;
    let tail = rest.split(',').next().unwrap_or_default();
    Some(format!("{name}{first}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(rank: usize, world: usize, vars: &[(&str, &str)]) -> Result<Meeting> {
        let launch = Launch {
            rank,
            world,
            local_rank: rank,
        };
        Meeting::from_variables(&launch, |name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_place_is_the_launchers() {
        let place = |vars: &[(&str, &str)]| meeting(1, 4, vars).map(|m| m.place());
        let torchrun = [
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "1234"),
            ("LOCAL_WORLD_SIZE", "4"),
        ];
        assert_eq!(place(&torchrun).unwrap(), "node0:1234");
        let agent = [
            torchrun[0],
            torchrun[1],
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        assert_eq!(place(&agent).unwrap(), "node0:1235");
        let one_machine = [("OMPI_COMM_WORLD_LOCAL_SIZE", "4")];
        assert_eq!(place(&one_machine).unwrap(), "127.0.0.1:29500");
        let slurm = [("SLURM_JOB_NODELIST", "gpu[07-09],x")];
        assert_eq!(place(&slurm).unwrap(), "gpu07:29500");
        let several = place(&[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]).unwrap_err();
        assert!(several.to_string().contains("MASTER_ADDR"), "{several}");
        assert!(place(&[("MASTER_PORT", "http")]).is_err());
    }

    #[test]
    fn node_lists_are_understood() {
        for (list, first) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("gpu[003-005,9]", "gpu003"),
            ("rack1-[7]-ib,rack2-[1-3]-ib", "rack1-7-ib"),
        ] {
            assert_eq!(first_node(list).as_deref(), Some(first));
        }
        assert_eq!(first_node(""), None);
        assert_eq!(first_node("gpu[1"), None);
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    fn here(rank: usize, world: usize, port: u16, seconds: u64) -> Meeting {
        Meeting {
            host: "127.0.0.1".to_owned(),
            port,
            rank,
            world,
            patience: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn all_get_the_bytes_of_the_first_whoever_comes_first() {
        let port = free_port();
        let member = move |rank| here(rank, 3, port, 60).share(|| Ok([rank as u8 + 7; 128]));
        let late = std::thread::spawn(move || member(2));
        std::thread::sleep(Duration::from_millis(200));
        let first = std::thread::spawn(move || member(0));
        // A stranger at the door changes nothing.
        let mut stranger = here(1, 3, port, 60).connect().unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let second = std::thread::spawn(move || member(1));
        for thread in [late, first, second] {
            assert_eq!(thread.join().unwrap().unwrap(), [7; 128]);
        }
    }

    #[test]
    fn who_waits_in_vain_says_for_whom_and_where() {
        let port = free_port();
        let alone = here(0, 3, port, 0).share(|| Ok([0; 4])).unwrap_err();
        let expected = format!("127.0.0.1:{port} for the processes 1, 2");
        assert!(alone.to_string().contains(&expected), "{alone}");
        let lost = here(1, 2, port, 0).share(|| Ok([0; 4])).unwrap_err();
        assert!(lost.to_string().contains("MASTER_ADDR"), "{lost}");
    }

    #[test]
    fn a_process_of_another_job_is_sent_away() {
        let port = free_port();
        let first = std::thread::spawn(move || here(0, 2, port, 60).share(|| Ok([1; 4])));
        let other = here(3, 8, port, 60).share(|| Ok([0; 4])).unwrap_err();
        assert!(other.to_string().contains("another job"), "{other}");
        assert_eq!(here(1, 2, port, 60).share(|| Ok([0; 4])).unwrap(), [1; 4]);
        assert_eq!(first.join().unwrap().unwrap(), [1; 4]);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = here(0, 2, port, 60).share(|| Ok([0; 4])).unwrap_err();
        assert!(error.to_string().contains("MASTER_PORT"), "{error}");
    }

    #[test]
    fn a_loopback_address_of_a_name_is_not_all_that_is_listened_at() {
        let everywhere = |host: &str| {
            let first = Meeting {
                host: host.to_owned(),
                ..here(0, 2, free_port(), 60)
            };
            let listener = first.listen().unwrap();
            listener.local_addr().unwrap().ip().is_unspecified()
        };
        assert!(!everywhere("127.0.0.1") && !everywhere("localhost"));
        // In capitals it stands for the own name of a machine that its system gives such an address.
        assert!(everywhere("LOCALHOST"));
    }
}
