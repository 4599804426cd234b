//! The reference model: the rules of chapters 02 and 03 of the specification
//! about turns, for one user with one model. It uses no code under test.
//! The history reports the actions of clients, provider, clock and watchdog to
//! the model, and shows it the rows after every transaction. The model computes
//! the expected rows and the possible answers: an answer must be right for some
//! state of the rows between request and answer.

pub(crate) mod rules;
mod transitions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use uuid::Uuid;

use crate::facts::{Calls, Facts};
use crate::provider::{Tool, Usage};

pub(crate) use transitions::stale_at;

pub(crate) const SECOND: i64 = 1_000_000;
/// 2026-03-10T12:00:00Z.
pub(crate) const NOON: i64 = 1_773_144_000 * SECOND;
/// 2026-02-28T23:58:00Z: day and month end soon.
pub(crate) const LAST_MINUTES: i64 = 1_772_323_080 * SECOND;

pub(crate) const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(20);
/// Longer than the watchdog's timeout, which real processes forbid (TURN-1). So
/// a watchdog can take a live turn for an orphan.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_mins(4);
pub(crate) const TOTAL_LIMIT: Duration = Duration::from_mins(10);
pub(crate) const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(90);
/// `server.request_deadline_secs` at its default.
const REQUEST_DEADLINE: i64 = 30 * SECOND;
/// The answer when the deadline has passed.
pub(crate) const TIMED_OUT: &str = "504 request_timeout";
/// The answer when the result is not known.
const FAILED: &str = "503 service_unavailable";
const NO_CHAT: &str = "404 chat_not_found";

/// `drain.min_secs` and `drain.max_secs`.
pub(crate) const DRAIN_MIN: Duration = Duration::from_secs(7);
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(47);
/// How long before `DRAIN_MAX` streams are cut (K8S-50).
const CUT: Duration = Duration::from_secs(5);

pub(crate) const MAX_OUTPUT: i64 = 100;
/// What the offer of a tool costs.
pub(crate) const WEB_SEARCH_TOKENS: i64 = 30;
pub(crate) const CODE_INTERPRETER_TOKENS: i64 = 40;
/// Calls of each tool that one message may begin, and that a day may have before a
/// message is refused.
pub(crate) const MAX_CALLS: i64 = 2;
pub(crate) const DAILY_CALLS: i64 = 3;
/// Images of one message, and what one of them costs.
pub(crate) const MAX_IMAGES: usize = 1;
pub(crate) const IMAGE_TOKENS: i64 = 20;
/// Price of `std` in micro-credits per token.
const OUTPUT_PRICE: i64 = 3;
const FLOOR: i64 = 50;
/// Enough for a few turns.
pub(crate) const DAILY_LIMIT: i64 = 2_500;
pub(crate) const MONTHLY_LIMIT: i64 = 4_000;
pub(crate) const OVERSHOOT_PCT: i64 = 10;

/// The request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Send {
        request: Uuid,
        content: String,
        files: Vec<Uuid>,
        searches_web: bool,
    },
    Retry {
        target: Uuid,
    },
    Edit {
        target: Uuid,
        content: String,
    },
    Delete {
        target: Uuid,
    },
    Cancel {
        target: Uuid,
    },
    Status {
        target: Uuid,
    },
    Messages,
    DeleteFile {
        file: Uuid,
    },
    DeleteChat,
}

impl Command {
    /// The request id of the turn that the command concerns or creates.
    fn request(&self) -> Option<Uuid> {
        match self {
            Self::Send {
                request: target, ..
            }
            | Self::Retry { target }
            | Self::Edit { target, .. }
            | Self::Delete { target }
            | Self::Cancel { target }
            | Self::Status { target } => Some(*target),
            Self::Messages | Self::DeleteFile { .. } | Self::DeleteChat => None,
        }
    }

    const fn opens_a_turn(&self) -> bool {
        matches!(
            self,
            Self::Send { .. } | Self::Retry { .. } | Self::Edit { .. }
        )
    }

    /// The turn that a new turn would replace.
    const fn replaced(&self) -> Option<Uuid> {
        match self {
            Self::Retry { target } | Self::Edit { target, .. } => Some(*target),
            _ => None,
        }
    }
}

/// How far an operation has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Its client waits for the answer or reads the stream.
    Waiting,
    /// Its client has disconnected. The work that it started may continue.
    Left,
    /// It has its whole answer, or its process is gone.
    Over,
}

#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about one operation"
)]
pub(crate) struct Operation {
    pub(crate) chat: Uuid,
    pub(crate) command: Command,
    pub(crate) presence: Presence,
    began: i64,
    life: u32,
    /// The answers that were right at some moment since it began.
    allowed: BTreeSet<String>,
    /// The reserves in tokens that were right at some moment since it began.
    reserves: BTreeSet<i64>,
    /// Number of states of the rows since it began.
    states: u32,
    pub(crate) answer: Option<String>,
    /// The turn that it opened.
    pub(crate) turn: Option<Uuid>,
    /// A connection to the provider was refused, possibly that of its turn.
    may_be_refused: bool,
    /// The number of its first transaction at the turnstile.
    pub(crate) transaction: Option<u64>,
    /// Its transaction failed, or the answer was lost. It may report a failure
    /// if nothing was changed.
    may_fail: bool,
    /// It deleted its turn or chat, and knows it.
    has_deleted: bool,
    /// It arrived when its process refused new turns (D29).
    is_refused: bool,
}

/// The reason, known to the process, that ends a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Completed,
    Failed(&'static str),
    Cancelled(Cancel),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancel {
    Disconnect,
    Stop,
    Drain,
}

/// Who moved the row out of `running`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Winner {
    Process,
    Other,
}

/// The process's side of a turn.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) life: u32,
    /// The text read from the provider.
    pub(crate) text: String,
    /// Calls of tools that the provider began and ended, and the events about them that
    /// its client is shown.
    begun: Calls,
    pub(crate) ended: Calls,
    pub(crate) tool_events: usize,
    /// The provider has received the request.
    provider_called: bool,
    attempts: u32,
    usage: Usage,
    /// The provider answered with a status of 400 or more (D54).
    refused: bool,
    pub(crate) ending: Option<Ending>,
    pub(crate) winner: Option<Winner>,
    /// When the provider's silence is too long, and when the whole call is.
    silence_ends: i64,
    call_ends: i64,
}

/// Counters of one process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) completed: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) aborted: BTreeMap<&'static str, u64>,
    pub(crate) orphans_finalized: u64,
    pub(crate) settled_actual: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) now: i64,
    pub(crate) life: u32,
    pub(crate) facts: Facts,
    pub(crate) operations: Vec<Operation>,
    pub(crate) live: BTreeMap<Uuid, Live>,
    pub(crate) counts: Counts,
    /// Number of lost answers that this process may still be looking up.
    pub(crate) losses: u64,
    /// When the first of these answers was lost.
    pub(crate) lost_since: Option<i64>,
    /// Number of watchdog runs in progress, and whether start-up recovery is.
    pub(crate) watchdogs: u32,
    pub(crate) recovers: bool,
    pub(crate) provider_is_away: bool,
    /// The turnstile numbers of the writes that are being made, in order.
    /// Several may share a transaction.
    pub(crate) happening: Vec<u64>,
    /// Number of transactions of this process in which a writer's statement
    /// failed and whose jobs may still be retried.
    pub(crate) failures: u32,
    /// Deletions that were acknowledged to a client: chat and request id, or
    /// the chat.
    acknowledged_deletions: BTreeSet<(Uuid, Option<Uuid>)>,
    pub(crate) drain: Option<Drain>,
}

/// The timetable of a process that received SIGTERM (K8S-50).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// When new turns are refused, and when running ones are cut.
    refuses_at: i64,
    cuts_at: i64,
}

impl Model {
    /// A client sends a request. Returns the number of its operation.
    pub(crate) fn begin(&mut self, chat: Uuid, command: Command) -> usize {
        let mut operation = Operation {
            chat,
            command,
            presence: Presence::Waiting,
            began: self.now,
            life: self.life,
            allowed: BTreeSet::new(),
            reserves: BTreeSet::new(),
            states: 0,
            answer: None,
            turn: None,
            may_be_refused: false,
            transaction: None,
            may_fail: false,
            has_deleted: false,
            is_refused: false,
        };
        if operation.command.opens_a_turn() && self.refuses() {
            operation.is_refused = true;
            let refusal = "503 service_unavailable".to_owned();
            operation.allowed.insert(refusal);
        }
        operation.live_through(&self.facts, self.now);
        self.operations.push(operation);
        self.operations.len() - 1
    }

    /// The client of an operation disconnects (TURN-47, TURN-49).
    pub(crate) fn leave(&mut self, operation: usize) {
        let operation = &mut self.operations[operation];
        operation.presence = match operation.turn {
            Some(_) => Presence::Over,
            None => Presence::Left,
        };
        if let Some(turn) = operation.turn {
            self.end(turn, Ending::Cancelled(Cancel::Disconnect));
        }
    }

    /// The first reason ends a turn (TURN-42).
    fn end(&mut self, turn: Uuid, ending: Ending) {
        if let Some(live) = self.live.get_mut(&turn)
            && live.life == self.life
        {
            live.ending.get_or_insert(ending);
        }
    }

    /// A client got its answer.
    pub(crate) fn answered(&mut self, number: usize, answer: String) -> anyhow::Result<()> {
        if let Some(request) = answer.strip_prefix("stream ") {
            self.claim(number);
            let turn = self.operations[number].turn;
            let turn = turn.context("a stream although no turn was opened")?;
            let opened = &self.facts.turns[&turn].request;
            ensure!(*request == opened.to_string(), "{answer} for {opened}");
        } else {
            let operation = &mut self.operations[number];
            let excused = operation.may_fail && answer == FAILED && !operation.has_deleted;
            ensure!(
                excused || operation.allowed.contains(&answer),
                "answered {answer:?}; right would be one of {:?}",
                operation.allowed
            );
            ensure!(
                operation.turn.is_none(),
                "answered {answer:?} although a turn was opened"
            );
            operation.presence = Presence::Over;
        }
        let operation = &mut self.operations[number];
        let is_repeatable = matches!(operation.command, Command::DeleteFile { .. });
        if answer == "deleted" && !is_repeatable {
            let deleted = (operation.chat, operation.command.request());
            let is_first = self.acknowledged_deletions.insert(deleted);
            ensure!(is_first, "two clients were told that they deleted it");
        }
        let stops =
            matches!(operation.command, Command::Cancel { .. }) && answer.starts_with("202");
        let (chat, request) = (operation.chat, operation.command.request());
        operation.answer = Some(answer);
        if stops
            && let Some(request) = request
            && let Some((turn, _)) = self.facts.turn_of(chat, request)
        {
            self.end(turn, Ending::Cancelled(Cancel::Stop));
        }
        Ok(())
    }

    /// Whether every lookup of a lost answer would be repeated: each is
    /// repeated for at most a minute.
    pub(crate) fn may_lose(&self) -> bool {
        self.lost_since
            .is_none_or(|since| self.now - since < 50 * SECOND)
    }

    /// The answer to the write with this turnstile number is lost.
    pub(crate) fn lose(&mut self, transaction: u64) {
        self.losses += 1;
        self.lost_since.get_or_insert(self.now);
        if let Some(operation) = self.may_fail(transaction) {
            // The deletion of a chat or a file is not looked up, because repeating
            // it does no harm.
            operation.has_deleted &= !matches!(
                operation.command,
                Command::DeleteChat | Command::DeleteFile { .. }
            );
        }
    }

    /// A writer's statement failed, and possibly the transaction that these
    /// writes shared.
    pub(crate) fn fail(&mut self, transactions: &[u64]) {
        self.failures += 1;
        for &transaction in transactions {
            self.may_fail(transaction);
        }
    }

    /// Whether every failed transaction would be retried: a finalization is
    /// retried twice (TURN-37).
    pub(crate) const fn may_fail_again(&self) -> bool {
        self.failures < 2
    }

    /// Nothing is in progress any more.
    pub(crate) const fn calm_down(&mut self) {
        self.lost_since = None;
        self.failures = 0;
    }

    /// The caller of this write may report a failure. Returns its operation, if
    /// known.
    fn may_fail(&mut self, transaction: u64) -> Option<&mut Operation> {
        let life = self.life;
        let began = |it: &Operation| it.life == life && it.transaction == Some(transaction);
        if let Some(number) = self.operations.iter().position(began) {
            let operation = &mut self.operations[number];
            operation.may_fail = true;
            return Some(operation);
        }
        // A stop request for a turn of a dead process writes after its read.
        for operation in &mut self.operations {
            let asks = matches!(operation.command, Command::Cancel { .. });
            operation.may_fail |= asks && operation.life == life && operation.answer.is_none();
        }
        None
    }

    /// Of two operations with the same command, `number` opened the turn.
    fn claim(&mut self, number: usize) {
        if self.operations[number].turn.is_some() {
            return;
        }
        if let Some(twin) = self.twin_of(number) {
            self.operations[number].turn = self.operations[twin].turn.take();
        }
    }

    /// Another unanswered operation with the same command. Which of the two
    /// opened a new turn is not known before one is answered.
    pub(crate) fn twin_of(&self, number: usize) -> Option<usize> {
        let one = &self.operations[number];
        let is_twin = |other: &Operation| {
            let same = match (&one.command, &other.command) {
                (Command::Send { request: a, .. }, Command::Send { request: b, .. }) => a == b,
                (a, b) => a.replaced().is_some() && a.replaced() == b.replaced(),
            };
            same && one.chat == other.chat && other.answer.is_none() && other.life == one.life
        };
        (0..self.operations.len())
            .find(|&other| other != number && is_twin(&self.operations[other]))
    }

    /// A connection to the provider was refused; the turn is not known.
    pub(crate) fn refused(&mut self) {
        for operation in &mut self.operations {
            let live = operation.turn.and_then(|turn| self.live.get(&turn));
            let is_connecting =
                live.is_none_or(|live| !live.provider_called && live.ending.is_none());
            if operation.life == self.life && is_connecting {
                operation.may_be_refused = true;
            }
        }
    }

    /// The provider read the request of an operation's turn.
    pub(crate) fn provider_called(&mut self, operation: usize) -> anyhow::Result<()> {
        self.claim(operation);
        let turn = self.operations[operation].turn;
        let turn = turn.context("the provider was asked although no turn was opened")?;
        let now = self.now;
        let live = self.live.get_mut(&turn).context("a turn without process")?;
        ensure!(live.ending.is_none(), "asked for a turn that ended");
        live.attempts += 1;
        ensure!(live.attempts <= 2, "asked for the third time");
        if !live.provider_called {
            live.call_ends = now + micros(TOTAL_LIMIT);
        }
        live.provider_called = true;
        live.silence_ends = now + micros(FIRST_BYTE_LIMIT);
        Ok(())
    }

    /// The ids of the images that belong to the message of an operation's turn.
    pub(crate) fn image_ids(&self, operation: usize) -> Vec<String> {
        let turn = self.operations[operation].turn;
        let turn = turn.and_then(|turn| self.facts.turns.get(&turn));
        let message = turn.and_then(|turn| self.facts.message_of_turn(turn, "user"));
        let files = message.and_then(|(id, _)| self.facts.links.get(&id));
        let files = files.into_iter().flatten();
        files
            .filter(|id| self.facts.files.get(*id).is_some_and(|file| file.is_image))
            .map(|id| format!("file-{id}"))
            .collect()
    }

    /// The provider sent the head of its stream, or an event.
    pub(crate) fn provider_shows_life(&mut self, operation: usize, text: &str) {
        let now = self.now;
        if let Some(live) = self.live_of(operation) {
            live.text.push_str(text);
            live.silence_ends = now + micros(IDLE_LIMIT);
        }
    }

    /// The provider sent an event about a call. The one that would exceed the limit of
    /// its tool ends the turn (TURN-28).
    pub(crate) fn provider_calls(&mut self, operation: usize, tool: Tool, is_end: bool) {
        self.provider_shows_life(operation, "");
        let Some(live) = self.live_of(operation) else {
            return;
        };
        if live.ending.is_some() {
            return;
        }
        let (begun, ended) = (tool.of(&mut live.begun), tool.of(&mut live.ended));
        if is_end {
            *begun = (*begun).max(*ended + 1);
        } else {
            *begun += 1;
        }
        if *begun > MAX_CALLS {
            live.ending = Some(Ending::Failed(tool.exceeded()));
            return;
        }
        *ended += i64::from(is_end);
        live.tool_events += 1;
    }

    /// Whether the turn of an operation searches the web.
    pub(crate) fn searches_web(&self, operation: usize) -> bool {
        let turn = self.operations[operation].turn;
        let turn = turn.and_then(|turn| self.facts.turns.get(&turn));
        turn.is_some_and(|turn| turn.searches_web)
    }

    pub(crate) fn provider_ends(&mut self, operation: usize, ending: Ending, usage: Usage) {
        if let Some(live) = self.live_of(operation)
            && live.ending.is_none()
        {
            live.ending = Some(ending);
            live.usage = usage.filter(|&(input, output)| input > 0 || output > 0);
        }
    }

    /// The provider answered with a status of 400 or more and no usage (D54).
    pub(crate) fn provider_refuses(&mut self, operation: usize, code: &'static str) {
        if let Some(live) = self.live_of(operation)
            && live.ending.is_none()
        {
            live.ending = Some(Ending::Failed(code));
            live.refused = true;
        }
    }

    /// The provider closed the connection before it sent anything. One retry is
    /// allowed (PLAT-119).
    pub(crate) fn provider_hangs_up(&mut self, operation: usize) {
        let is_away = self.provider_is_away;
        if let Some(live) = self.live_of(operation)
            && (live.attempts == 2 || is_away)
        {
            self.provider_ends(operation, Ending::Failed("provider_error"), None);
        }
    }

    fn live_of(&mut self, operation: usize) -> Option<&mut Live> {
        self.live.get_mut(&self.operations[operation].turn?)
    }

    /// Time passes: providers may be silent for too long, and requests may
    /// exceed their deadline.
    pub(crate) fn advance(&mut self, micros: i64) {
        self.now += micros;
        let (now, life) = (self.now, self.life);
        for live in self.live.values_mut().filter(|live| live.life == life) {
            if live.provider_called && now >= live.silence_ends.min(live.call_ends) {
                live.ending
                    .get_or_insert(Ending::Failed("provider_timeout"));
            }
        }
        for number in 0..self.operations.len() {
            let operation = &mut self.operations[number];
            let is_late = now >= operation.began + REQUEST_DEADLINE;
            if is_late && operation.presence == Presence::Waiting && operation.answer.is_none() {
                self.leave(number);
                // The work that it started continues, but the client gets an
                // answer.
                let operation = &mut self.operations[number];
                operation.answer = Some(TIMED_OUT.to_owned());
            }
        }
        self.cut_if_due();
        self.live_on();
    }

    /// The process receives SIGTERM. The second one makes it end at once
    /// (K8S-50).
    pub(crate) fn terminate(&mut self) {
        let drain = match self.drain {
            None => Drain {
                refuses_at: self.now + micros(DRAIN_MIN),
                cuts_at: self.now + micros(DRAIN_MIN + DRAIN_MAX) - micros(CUT),
            },
            Some(drain) => Drain {
                refuses_at: drain.refuses_at.min(self.now),
                cuts_at: drain.cuts_at.min(self.now),
            },
        };
        self.drain = Some(drain);
        self.cut_if_due();
    }

    /// Whether new turns are refused.
    pub(crate) fn refuses(&self) -> bool {
        self.drain.is_some_and(|drain| self.now >= drain.refuses_at)
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.drain.is_some_and(|drain| self.now >= drain.cuts_at)
    }

    /// Microseconds until running turns are cut; `None` if that will not
    /// happen.
    pub(crate) fn until_cut(&self) -> Option<i64> {
        let left = self.drain?.cuts_at - self.now;
        (left > 0).then_some(left)
    }

    fn cut_if_due(&mut self) {
        if self.is_cut() {
            for live in self.live.values_mut() {
                if live.life == self.life {
                    live.ending.get_or_insert(Ending::Cancelled(Cancel::Drain));
                }
            }
        }
    }

    /// Whether a running turn of this process has lost its client.
    pub(crate) fn has_departures(&self) -> bool {
        let departed = Some(Ending::Cancelled(Cancel::Disconnect));
        self.live.iter().any(|(turn, live)| {
            live.life == self.life && live.ending == departed && self.facts.turns[turn].is_running()
        })
    }

    /// Whether a turn of this process has not ended.
    pub(crate) fn has_open_turns(&self) -> bool {
        let mut live = self.live.values();
        live.any(|live| live.life == self.life && live.ending.is_none())
    }

    fn live_on(&mut self) {
        for operation in &mut self.operations {
            // The turn of a client that disconnected or exceeded the deadline
            // continues.
            let goes_on = operation.presence == Presence::Left;
            if goes_on || (operation.presence == Presence::Waiting && operation.answer.is_none()) {
                operation.live_through(&self.facts, self.now);
            }
        }
    }

    /// The process is gone with all its work.
    pub(crate) fn crash(&mut self) {
        self.life += 1;
        self.watchdogs = 0;
        self.provider_is_away = false;
        self.counts = Counts::default();
        self.losses = 0;
        self.calm_down();
        self.happening.clear();
        self.drain = None;
        for operation in &mut self.operations {
            operation.presence = Presence::Over;
        }
    }
}

fn micros(limit: Duration) -> i64 {
    i64::try_from(limit.as_micros()).unwrap_or(i64::MAX)
}

fn signed((input, output): (u64, u64)) -> (i64, i64) {
    let signed = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
    (signed(input), signed(output))
}
