//! Messages as they come and go: what is not a question is told from its first bytes, and an answer is made to fit.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// The longest question that is read. One of the longest name takes 271 bytes, and options some more.
pub(crate) const LONGEST_QUERY: usize = 4096;
/// What is sent by UDP at most, whatever the client would take: more might be cut into fragments on the way.
pub(crate) const LARGEST_DATAGRAM: u16 = 1232;
/// What a client without EDNS takes.
const SMALLEST_DATAGRAM: u16 = 512;
const HEADER: usize = 12;
/// Records behind the question: EDNS, and a signature that is not looked at.
const MOST_ADDITIONALS: u16 = 4;

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    Query(Box<Message>),
    /// Not a question that can be answered: this is said instead.
    Refused(Box<Message>),
    /// Nothing that is answered at all: too short, or an answer itself.
    Noise,
}

/// Reads a question. The header's counts are looked at before anything is made of them.
pub(crate) fn read(bytes: &[u8]) -> Received {
    if bytes.len() < HEADER {
        return Received::Noise;
    }
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Received::Noise };
    if header.metadata.message_type == MessageType::Response {
        // Answering answers could go on for ever.
        return Received::Noise;
    }
    let refused = |code| {
        let mut message = Message::error_msg(header.metadata.id, header.metadata.op_code, code);
        message.metadata.recursion_desired = header.metadata.recursion_desired;
        Received::Refused(Box::new(message))
    };
    if header.metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    let counts = header.counts;
    if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0)
        || counts.additionals > MOST_ADDITIONALS
        || bytes.len() > LONGEST_QUERY
    {
        return refused(ResponseCode::FormErr);
    }
    match Message::from_vec(bytes) {
        Ok(message) if message.queries.len() == 1 => Received::Query(Box::new(message)),
        _ => refused(ResponseCode::FormErr),
    }
}

/// An answer to `query`, still empty.
pub(crate) fn response(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_DATAGRAM).set_version(0);
        response.edns = Some(edns);
    }
    response
}

/// What a datagram to the client may hold.
pub(crate) fn datagram_limit(query: &Message) -> usize {
    let wanted = query.edns.as_ref().map_or(SMALLEST_DATAGRAM, |edns| edns.max_payload());
    usize::from(wanted.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM))
}

/// The bytes of an answer, at most `limit`. What merely spares further questions goes first; if the answers themselves do
/// not fit, as many stay as do, and the client is told to ask by TCP.
pub(crate) fn write(mut response: Message, limit: usize) -> Vec<u8> {
    let encoded = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = encoded(&response) {
        return bytes;
    }
    response.additionals.clear();
    if let Some(bytes) = encoded(&response) {
        return bytes;
    }
    response.metadata.truncation = true;
    response.authorities.clear();
    let all = std::mem::take(&mut response.answers);
    // The most that fit, by halving: none always do.
    let (mut fits, mut too_many) = (0, all.len() + 1);
    while fits + 1 < too_many {
        let tried = (fits + too_many) / 2;
        response.answers = all[..tried].to_vec();
        if encoded(&response).is_some() {
            fits = tried;
        } else {
            too_many = tried;
        }
    }
    response.answers = all[..fits].to_vec();
    encoded(&response).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn query(edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message
            .queries
            .push(Query::query(Name::from_ascii("web.shop.svc.cluster.local.").unwrap(), RecordType::A));
        message.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        message
    }

    fn with_answers(query: &Message, count: u16) -> Message {
        let mut response = response(query, ResponseCode::NoError);
        let [high, low] = count.to_be_bytes();
        let name = query.queries[0].name().clone();
        let record = |last: u16| {
            let [_, last] = last.to_be_bytes();
            Record::from_rdata(name.clone(), 5, RData::A(A(Ipv4Addr::new(10, high, low, last))))
        };
        response.answers = (0..count).map(record).collect();
        response
    }

    #[test]
    fn answers_fit_what_the_client_takes_and_say_when_they_were_cut() {
        for (edns, count, limit, cut) in [
            (None, 10, 512, false),
            (None, 100, 512, true),
            (Some(1232), 60, 1232, false),
            (Some(4096), 200, 1232, true),
        ] {
            let query = query(edns);
            assert_eq!(datagram_limit(&query), limit);
            let bytes = write(with_answers(&query, count), limit);
            assert!(bytes.len() <= limit, "{} bytes", bytes.len());
            let read = Message::from_vec(&bytes).unwrap();
            assert_eq!(read.metadata.truncation, cut, "{count} answers");
            assert_eq!(read.edns.is_some(), edns.is_some());
            assert!(
                !cut || read.answers.len() > usize::from(count) / 5,
                "as many as fit: {}",
                read.answers.len()
            );
            assert!(cut || read.answers.len() == usize::from(count));
        }
    }

    #[test]
    fn what_is_not_a_question_is_refused_or_passed_over() {
        let good = query(Some(1232)).to_vec().unwrap();
        assert!(matches!(read(&good), Received::Query(_)));
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read(&bytes)
        };
        let refusal = |received| match received {
            Received::Refused(message) => message.metadata.response_code,
            other => panic!("{other:?}"),
        };
        assert!(matches!(with(2, 0x80), Received::Noise), "an answer");
        assert_eq!(refusal(with(2, 0x28)), ResponseCode::NotImp, "an update");
        assert_eq!(refusal(with(5, 2)), ResponseCode::FormErr, "two questions announced");
        assert_eq!(refusal(with(4, 0xff)), ResponseCode::FormErr, "65281 questions announced");
        assert_eq!(refusal(with(5, 0)), ResponseCode::FormErr, "no question");
        assert_eq!(refusal(with(10, 0xff)), ResponseCode::FormErr, "65281 additional records announced");
        assert_eq!(refusal(with(12, 0xc0)), ResponseCode::FormErr, "a name that points into the header");
        assert_eq!(refusal(read(&good[..20])), ResponseCode::FormErr, "cut off");
        assert!(matches!(read(&good[..11]), Received::Noise));
        let mut long = good.clone();
        long.resize(LONGEST_QUERY + 1, 0);
        assert_eq!(refusal(read(&long)), ResponseCode::FormErr);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read(&bytes);
        }

        #[test]
        fn a_question_with_wrong_bytes_is_read_without_a_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = query(Some(1232)).to_vec().unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Received::Query(query) = read(&bytes) {
                let limit = datagram_limit(&query);
                prop_assert!(write(response(&query, ResponseCode::NXDomain), limit).len() <= limit);
            }
        }
    }
}
