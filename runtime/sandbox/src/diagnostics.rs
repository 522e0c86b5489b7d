//! Finds out why libcontainer failed.
//!
//! The errors that reach the caller name the step, not the cause: a mount that failed comes out as
//! "failed to prepare rootfs". The cause is in the trace events of the processes on the way. This
//! is a subscriber that writes error events into a pipe which those processes inherit; the first
//! one, written where the failure happened, is the cause.

use std::fmt::{self, Write as _};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The end of the pipe that causes come out of.
pub struct Causes(Option<OwnedFd>);

/// Collects error events of this process and those it forks. Once per process.
pub fn collect() -> Causes {
    let Ok((read, write)) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) else { return Causes(None) };
    let collected = tracing::subscriber::set_global_default(Collector(std::fs::File::from(write)));
    Causes(collected.ok().map(|()| read))
}

impl Causes {
    /// The first error event, if there was any.
    pub fn first(self) -> Option<String> {
        let mut text = [0; 4096];
        let read = std::fs::File::from(self.0?).read(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text[..read]);
        text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
    }
}

struct Collector(std::fs::File);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut text = line.message;
        text.push_str(&line.fields);
        let text = text.replace('\n', " ");
        let _ = (&self.0).write_all(format!("{text}\n").as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}: {value:?}"),
        };
    }
}
