//! One history: chooses and runs each step, and compares the result with the
//! model.

mod checks;
mod edge;
mod faults;
mod requests;
mod writer_faults;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use minichat_dataplane::jobs::Report;
use minichat_store::testing::{Access, Moment, Waiter};
use minichat_telemetry::Signal;
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::checks::operation_of;
use crate::choices::Choices;
use crate::client::{Client, Identity, Request};
use crate::facts::Turn;
use crate::model::{self, Ending, Model, Presence};
use crate::provider::{CallView, Phase, Tool, Usage};
use crate::world::{Drain, Life, Process, TENANT, World};

/// Milliseconds by which the clock moves: below every limit; beyond the
/// first-byte limit; beyond the request deadline and the progress interval;
/// beyond the watchdog's timeout; beyond the idle limit of a provider.
const MOVES: [u32; 5] = [1_007, 21_013, 31_019, 91_033, 250_037];

const USAGES: [Usage; 4] = [Some((60, 20)), None, Some((0, 0)), Some((400, 150))];

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Process,
    History,
}

/// A failed history, as shown to people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) steps: Vec<String>,
    pub(crate) choices: Vec<u32>,
}

/// Plays the history of `choices`.
pub(crate) fn play(world: &mut World, choices: Choices) -> Result<u64, Box<Failure>> {
    let mut history = History::new(choices);
    match history.play(world) {
        Ok(()) => Ok(history.steps.len() as u64),
        Err(error) => {
            // The world may be in any state, so the next history gets a new
            // one.
            world.crash();
            Err(Box::new(Failure {
                what: format!("{error:#}"),
                steps: history.steps,
                choices: history.choices.made().to_vec(),
            }))
        }
    }
}

/// A run of the watchdog in progress.
struct WatchdogRun {
    run: JoinHandle<Report>,
    /// The minimum and maximum number of orphans since it started.
    orphans: (usize, usize),
}

struct History {
    choices: Choices,
    who: Identity,
    chats: Vec<Uuid>,
    /// Request ids in the order of their first use, to give them short names.
    requests: Vec<Uuid>,
    model: Model,
    clients: HashMap<usize, Client>,
    /// Number of provider calls that the model knows.
    calls_seen: usize,
    refusals_seen: u32,
    watchdogs: Vec<WatchdogRun>,
    /// Set after the process received SIGTERM.
    drain: Option<Drain>,
    /// Writes whose answers wait, by the answer's number at the turnstile.
    writes: HashMap<u64, u64>,
    behind: i64,
    steps: Vec<String>,
}

impl History {
    fn new(choices: Choices) -> Self {
        let who = Identity {
            tenant: TENANT,
            user: Uuid::new_v4(),
        };
        Self {
            choices,
            who,
            chats: Vec::new(),
            requests: Vec::new(),
            model: Model::default(),
            clients: HashMap::new(),
            calls_seen: 0,
            refusals_seen: 0,
            watchdogs: Vec::new(),
            drain: None,
            writes: HashMap::new(),
            behind: 0,
            steps: Vec::new(),
        }
    }

    fn play(&mut self, world: &mut World) -> anyhow::Result<()> {
        self.model.now = if self.choices.chance(15) {
            model::LAST_MINUTES
        } else {
            model::NOON
        };
        world.set_time(self.model.now)?;
        self.behind = world.window.end_of_queues()?;
        let mut left = 10 + self.choices.below(40);
        loop {
            let process = Process::spawn()?;
            let end = process.run(self.live(world, &process, &mut left))??;
            self.clients.clear();
            self.watchdogs.clear();
            self.drain = None;
            self.writes.clear();
            drop(process);
            if end == End::History {
                return Ok(());
            }
            self.model.crash();
            world.crash();
        }
    }

    /// Runs one process.
    async fn live(
        &mut self,
        world: &mut World,
        process: &Process,
        left: &mut u32,
    ) -> anyhow::Result<End> {
        let life = world.start(process).await?;
        self.calls_seen = 0;
        self.refusals_seen = 0;
        if self.chats.is_empty() {
            self.create_chats(world, &life).await?;
        } else if world.recovers() {
            self.recover(world, &life).await?;
        } else {
            self.note("restart".to_owned());
        }
        while *left > 0 && !self.choices.are_used_up() {
            *left -= 1;
            if let Some(end) = self.step(world, &life).await? {
                return Ok(end);
            }
        }
        self.wind_up(world, &life).await?;
        Ok(End::History)
    }

    async fn create_chats(&mut self, world: &World, life: &Life) -> anyhow::Result<()> {
        for _ in 0..2 {
            let request = Request {
                method: Method::POST,
                path: "/chats".to_owned(),
                body: Some(json!({})),
            };
            let client = Client::send(life.router.clone(), self.who, "chat", &request);
            life.settle().await;
            while let Some(waiter) = life.turnstile.waiting().first() {
                life.turnstile.release(waiter.number);
                life.settle().await;
            }
            let body = client.seen().body.context("no answer to a new chat")?;
            let id = body["id"].as_str().context("a chat without id")?;
            self.chats.push(id.parse()?);
        }
        for &chat in &self.chats {
            world.window.add_files(chat)?;
        }
        self.model.facts.files = world.window.look(self.who, self.behind)?.files;
        Ok(())
    }

    /// The recovery that a start makes before it serves (TURN-63).
    async fn recover(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        let report = life.recovery.recover().await;
        ensure!(report.is_success(), "start-up recovery: {report:?}");
        self.model.recovers = true;
        self.look(world)?;
        self.model.recovers = false;
        self.note(format!("restart; {} turns recovered", report.finalized));
        self.model.check_end()?;
        self.check_quiet(life)
    }

    fn note(&mut self, what: String) {
        self.steps.push(what);
    }

    fn look(&mut self, world: &World) -> anyhow::Result<()> {
        let facts = world.window.look(self.who, self.behind)?;
        self.model.observe(&facts)
    }

    /// Runs one step. `Some` if it ends the process.
    async fn step(&mut self, world: &mut World, life: &Life) -> anyhow::Result<Option<End>> {
        let waiting = life.turnstile.waiting();
        let open: Vec<CallView> = open_calls(life);
        let waits = u32::from(!waiting.is_empty());
        let streams = u32::from(!open.is_empty());
        let readers = self.readers();
        let at_risk = self.at_risk(&open);
        let fault_weights = self.fault_weights(life, &waiting);
        let weights = [
            30 * waits,
            40 * waits,
            40 * streams,
            if self.model.operations.len() < 14 {
                30
            } else {
                0
            },
            if readers.is_empty() { 0 } else { 8 },
            match (self.may_advance(), &self.drain) {
                (false, _) => 0,
                (true, None) => 7,
                (true, Some(_)) => 15,
            },
            if self.watchdogs.len() < 2 { 6 } else { 0 },
            fault_weights.iter().sum(),
            if self.may_advance() && !at_risk.is_empty() && self.watchdogs.len() < 2 {
                12
            } else {
                0
            },
        ];
        match self.choices.weighted(&weights) {
            Some(0) => self.flush(world, life).await?,
            Some(1) => {
                if let Some(waiter) = self.choices.one_of(&waiting).copied() {
                    self.release(world, life, waiter).await?;
                }
            }
            Some(2) => self.provider_step(world, life, &open).await?,
            Some(3) => self.client_step(world, life).await?,
            Some(4) => {
                if let Some(&number) = self.choices.one_of(&readers) {
                    self.leave(world, life, number).await?;
                }
            }
            Some(5) => self.advance(world, life).await?,
            Some(6) => self.start_watchdog(world, life).await?,
            Some(7) => {
                return self
                    .inject_fault(world, life, &waiting, fault_weights)
                    .await;
            }
            Some(8) => self.tempt_watchdog(world, life, &at_risk).await?,
            _ => {}
        }
        Ok(None)
    }

    /// Operations whose client can disconnect.
    fn readers(&self) -> Vec<usize> {
        let operations = self.model.operations.iter().enumerate();
        operations
            .filter(|(number, operation)| {
                operation.presence == Presence::Waiting
                    && (operation.answer.is_some() || self.model.twin_of(*number).is_none())
            })
            .map(|(number, _)| number)
            .collect()
    }

    /// Not while a transaction is in progress whose turn would exceed its time.
    fn may_advance(&self) -> bool {
        let operations = self.model.operations.iter().enumerate();
        operations
            .filter(|(_, operation)| {
                operation.presence == Presence::Waiting && operation.answer.is_none()
            })
            .all(|(number, _)| self.model.twin_of(number).is_none())
    }

    /// Lets every waiter continue, in order.
    async fn flush(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        while let Some(waiter) = life.turnstile.waiting().first().copied() {
            self.release(world, life, waiter).await?;
        }
        Ok(())
    }

    async fn release(
        &mut self,
        world: &mut World,
        life: &Life,
        waiter: Waiter,
    ) -> anyhow::Result<()> {
        let Waiter {
            number,
            access,
            moment,
        } = waiter;
        self.note(match (access, moment) {
            (Access::Read, Moment::Begin) => format!("read #{number} happens"),
            (Access::Write, Moment::Begin) => format!("write #{number} happens"),
            (_, Moment::Answer) => format!("#{number} is answered"),
        });
        let answer = life.turnstile.release(number);
        let writes = access == Access::Write && moment == Moment::Begin;
        if writes {
            self.model.happening = vec![number];
        }
        self.settle(world, life, writes).await?;
        if writes {
            self.remember_answer(life, number, answer);
        }
        Ok(())
    }

    /// Waits until nothing happens by itself, and compares with the model.
    async fn settle(&mut self, world: &mut World, life: &Life, wrote: bool) -> anyhow::Result<()> {
        life.settle().await;
        if wrote {
            self.look(world)?;
            self.model.happening.clear();
        }
        self.watch_provider(life)?;
        self.watch_clients()?;
        self.watch_watchdogs().await?;
        self.check_counters(life)?;
        if life.turnstile.waiting().is_empty() {
            self.model.calm_down();
            self.check_quiet(life)?;
        }
        Ok(())
    }

    async fn provider_step(
        &mut self,
        world: &mut World,
        life: &Life,
        open: &[CallView],
    ) -> anyhow::Result<()> {
        let Some(call) = self.choices.one_of(open) else {
            return Ok(());
        };
        let operation = operation_of(call)?;
        let (index, provider) = (call.index, &life.provider);
        let what = if call.phase == Phase::Received {
            self.answer_head(life, index, operation)
        } else {
            match self.choices.weighted(&[40, 25, 6, 6, 6, 8, 25]) {
                Some(0) => {
                    let text = format!("{} ", self.steps.len());
                    provider.delta(index, &text);
                    self.model.provider_shows_life(operation, &text);
                    format!("says {text:?}")
                }
                Some(1) => self.complete(life, index, operation, None),
                Some(2) => self.complete(life, index, operation, Some("max_output_tokens")),
                Some(3) => {
                    let usage = self.usage();
                    provider.fail(index, usage);
                    self.model
                        .provider_ends(operation, Ending::Failed("provider_error"), usage);
                    format!("fails, usage {usage:?}")
                }
                Some(4) => {
                    provider.hang_up(index);
                    self.model
                        .provider_ends(operation, Ending::Failed("provider_error"), None);
                    "breaks off".to_owned()
                }
                Some(6) => self.call_tool(life, index, operation),
                _ => {
                    provider.show_life(index);
                    self.model.provider_shows_life(operation, "");
                    "shows life".to_owned()
                }
            }
        };
        self.note(format!("the provider of op-{operation} {what}"));
        self.settle(world, life, false).await
    }

    /// Begins or ends a call, whether or not the one precedes the other.
    fn call_tool(&mut self, life: &Life, index: usize, operation: usize) -> String {
        let tool = self.choices.one_of(&Tool::ALL).copied();
        let tool = tool.unwrap_or(Tool::WebSearch);
        let is_end = self.choices.chance(60);
        life.provider.call(index, tool, is_end);
        self.model.provider_calls(operation, tool, is_end);
        let end = if is_end { "ends" } else { "begins" };
        format!("{end} a call of {tool:?}")
    }

    /// Sends the head of an answer, or an answer that is not a stream.
    fn answer_head(&mut self, life: &Life, index: usize, operation: usize) -> String {
        let provider = &life.provider;
        let refusals = [
            (429, "rate_limited"),
            (500, "provider_error"),
            (504, "provider_timeout"),
        ];
        match self.choices.weighted(&[60, 12, 8]) {
            Some(0) => {
                provider.stream(index);
                self.model.provider_shows_life(operation, "");
                "begins".to_owned()
            }
            Some(1) => {
                let (status, code) = self.choices.one_of(&refusals).copied().unwrap_or_default();
                provider.refuse(index, status);
                self.model.provider_refuses(operation, code);
                format!("answers {status}")
            }
            _ => {
                provider.hang_up(index);
                self.model.provider_hangs_up(operation);
                "hangs up".to_owned()
            }
        }
    }

    fn complete(
        &mut self,
        life: &Life,
        index: usize,
        operation: usize,
        reason: Option<&str>,
    ) -> String {
        let usage = self.usage();
        life.provider.complete(index, usage, reason);
        self.model
            .provider_ends(operation, Ending::Completed, usage);
        format!("completes {}, usage {usage:?}", reason.unwrap_or_default())
    }

    fn usage(&mut self) -> Usage {
        self.choices.one_of(&USAGES).copied().flatten()
    }

    async fn leave(&mut self, world: &mut World, life: &Life, number: usize) -> anyhow::Result<()> {
        self.note(format!("the client of op-{number} leaves"));
        self.model.leave(number);
        if let Some(client) = self.clients.remove(&number) {
            client.leave();
        }
        self.settle(world, life, false).await
    }

    async fn advance(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        let millis = self.choices.one_of(&MOVES).copied().unwrap_or_default();
        self.move_clock(world, life, millis).await
    }

    async fn move_clock(
        &mut self,
        world: &mut World,
        life: &Life,
        millis: u32,
    ) -> anyhow::Result<()> {
        self.note(format!("{millis} ms pass"));
        let mut left = i64::from(millis) * 1_000;
        // Everything that is due before a cut has happened by then.
        if let Some(cut) = self.model.until_cut().filter(|&cut| cut <= left) {
            self.pass(world, life, cut - 1_000).await?;
            self.hear_of_departures(world, life).await?;
            self.pass(world, life, 1_000).await?;
            left -= cut;
        }
        self.pass(world, life, left).await
    }

    async fn pass(&mut self, world: &mut World, life: &Life, micros: i64) -> anyhow::Result<()> {
        self.model.advance(micros);
        world.set_time(self.model.now)?;
        tokio::time::advance(Duration::from_micros(micros.unsigned_abs())).await;
        self.settle(world, life, false).await
    }

    async fn start_watchdog(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        self.note("a watchdog starts".to_owned());
        self.model.watchdogs += 1;
        let watchdog = life.watchdog();
        let orphans = self.model.orphans();
        self.watchdogs.push(WatchdogRun {
            run: tokio::spawn(async move { watchdog.run_once(&Signal::new()).await }),
            orphans: (orphans, orphans),
        });
        self.settle(world, life, false).await
    }

    /// Lets everything end.
    async fn wind_up(&mut self, world: &mut World, life: &Life) -> anyhow::Result<()> {
        self.note("wind up".to_owned());
        self.flush(world, life).await?;
        if let Some(left) = self.model.until_cut() {
            self.move_clock(world, life, u32::try_from(left / 1_000)?)
                .await?;
            self.flush(world, life).await?;
        }
        while let Some(call) = open_calls(life).first() {
            let operation = operation_of(call)?;
            if call.phase == Phase::Received {
                life.provider.stream(call.index);
                self.model.provider_shows_life(operation, "");
                self.settle(world, life, false).await?;
            }
            self.complete(life, call.index, operation, None);
            self.note(format!("the provider of op-{operation} completes"));
            self.settle(world, life, false).await?;
            self.flush(world, life).await?;
        }
        // Turns of a process that is gone.
        if self.model.facts.turns.values().any(Turn::is_running) {
            self.move_clock(world, life, 91_033).await?;
            self.start_watchdog(world, life).await?;
            self.flush(world, life).await?;
        }
        ensure!(self.watchdogs.is_empty(), "a watchdog goes on for ever");
        self.look(world)?;
        self.model.check_end()?;
        self.check_quiet(life)
    }

    /// Replaces ids by short names.
    fn named(&self, text: &str) -> String {
        let mut named = text.to_owned();
        for (index, id) in self.requests.iter().enumerate() {
            named = named.replace(&id.to_string(), &format!("r{index}"));
        }
        for (index, id) in self.chats.iter().enumerate() {
            named = named.replace(&id.to_string(), &format!("chat {index}"));
        }
        for (index, id) in self.model.facts.files.keys().enumerate() {
            named = named.replace(&id.to_string(), &format!("file {index}"));
        }
        named
    }
}

fn open_calls(life: &Life) -> Vec<CallView> {
    let mut calls = life.provider.calls();
    calls.retain(CallView::is_open);
    calls
}
