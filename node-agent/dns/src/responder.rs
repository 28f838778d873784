//! From a question to its answer: the zone first, others for what is not the cluster's.

use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use crate::upstream::{Said, Upstream};
use crate::wire;
use crate::zone::{Lookup, Zone};

/// How many external names may follow one another.
const LONGEST_CHASE: usize = 8;

/// An answer, and who had it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    /// Whose name it was: the cluster's domain or the root.
    pub(crate) zone: String,
    pub(crate) source: &'static str,
}

/// What can be said at once.
#[derive(Debug)]
pub(crate) enum First {
    Reply(Box<Reply>),
    /// Others have to be asked.
    Ask(Box<Pending>),
}

/// A question that others have to be asked.
#[derive(Debug)]
pub(crate) struct Pending {
    request: Message,
    /// External names that led to it.
    chased: Vec<Record>,
    query: Query,
}

#[derive(Debug)]
pub(crate) struct Responder {
    zone: Arc<RwLock<Zone>>,
    upstream: Upstream,
}

impl Responder {
    pub(crate) fn new(zone: Arc<RwLock<Zone>>) -> Self {
        Self { zone, upstream: Upstream::new() }
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Answers from what is known, without waiting for anybody. `request` has one question.
    pub(crate) fn answer(&self, request: Message) -> First {
        let Some(query) = request.queries.first().cloned() else {
            return First::Reply(Box::new(refusal(&request, ResponseCode::FormErr)));
        };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return First::Reply(Box::new(refusal(&request, ResponseCode::BADVERS)));
        }
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if query.query_class() != DNSClass::IN || transfer {
            return First::Reply(Box::new(refusal(&request, ResponseCode::Refused)));
        }
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        let mut chased = Vec::new();
        let mut name = query.name().clone();
        // As a question says it, a name need not end in the root.
        name.set_fqdn(true);
        loop {
            match zone.lookup(&name, query.query_type()) {
                Lookup::Alias { record, target } if chased.len() < LONGEST_CHASE => {
                    chased.push(*record);
                    if query.query_type() == RecordType::CNAME {
                        return known(&zone, &request, ResponseCode::NoError, chased, Vec::new());
                    }
                    name = target;
                }
                Lookup::Alias { .. } => {
                    return known(&zone, &request, ResponseCode::ServFail, chased, Vec::new());
                }
                Lookup::Found { answers, additionals } => {
                    chased.extend(answers);
                    return known(&zone, &request, ResponseCode::NoError, chased, additionals);
                }
                Lookup::NoSuchName => {
                    return known(&zone, &request, ResponseCode::NXDomain, chased, Vec::new());
                }
                Lookup::Foreign => {
                    drop(zone);
                    return self.foreign(request, chased, name, query.query_type());
                }
            }
        }
    }

    fn foreign(&self, request: Message, chased: Vec<Record>, name: Name, kind: RecordType) -> First {
        let pending = Pending { request, chased, query: Query::query(name, kind) };
        match self.upstream.recall(&pending.query) {
            Some(said) => First::Reply(Box::new(pending.reply(said))),
            None => First::Ask(Box::new(pending)),
        }
    }

    /// Asks others.
    pub(crate) async fn ask(&self, pending: Pending) -> Reply {
        let said = self.upstream.ask(pending.query.clone()).await;
        pending.reply(said)
    }
}

impl Pending {
    fn reply(self, said: Said) -> Reply {
        let mut message = wire::response(&self.request, said.code);
        message.answers = self.chased;
        // Upstream was asked in letters of random case; the client reads its own.
        let own = |mut record: Record| {
            if record.name == *self.query.name() {
                record.name = self.query.name().clone();
            }
            record
        };
        message.answers.extend(said.answers.into_iter().map(own));
        message.authorities = said.authorities;
        Reply { message, zone: ".".to_owned(), source: if said.cached { "cache" } else { "forward" } }
    }
}

/// What the zone says; with nothing to say, for how long that holds.
fn known(
    zone: &Zone,
    request: &Message,
    code: ResponseCode,
    answers: Vec<Record>,
    additionals: Vec<Record>,
) -> First {
    let mut message = wire::response(request, code);
    message.metadata.authoritative = true;
    let kind = request.queries.first().map(Query::query_type);
    let answered = answers.iter().any(|record| Some(record.record_type()) == kind);
    if !answered && code != ResponseCode::ServFail {
        message.authorities.push(zone.soa());
    }
    message.answers = answers;
    message.additionals = additionals;
    First::Reply(Box::new(Reply { message, zone: zone.origin().to_ascii(), source: "kubernetes" }))
}

fn refusal(request: &Message, code: ResponseCode) -> Reply {
    Reply { message: wire::response(request, code), zone: ".".to_owned(), source: "" }
}
