//! The client's life as stories: a server in a few lines, time by hand.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn client() -> Client {
    Client::new(
        Identity {
            mac: MAC,
            hostname: Some("node1".to_owned()),
            hint: None,
        },
        42,
    )
}

/// What the client asks for, decoded.
fn question(effect: Option<Effect>) -> Message {
    let (Some(Effect::Broadcast(bytes)) | Some(Effect::Unicast { message: bytes, .. })) = effect
    else {
        panic!("a message was expected, not {effect:?}")
    };
    Message::decode(&mut Decoder::new(&bytes)).expect("our own message decodes")
}

/// The server's answer to `question`, with an hour's lease unless `options` say otherwise.
fn answer(
    question: &Message,
    kind: MessageType,
    address: Ipv4Addr,
    options: &[DhcpOption],
) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(question.xid(), none, address, none, none, &MAC);
    message.set_opcode(Opcode::BootReply);
    let opts = message.opts_mut();
    opts.insert(DhcpOption::MessageType(kind));
    opts.insert(DhcpOption::ServerIdentifier(SERVER));
    opts.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    opts.insert(DhcpOption::Router(vec![SERVER]));
    opts.insert(DhcpOption::AddressLeaseTime(3600));
    for option in options {
        opts.insert(option.clone());
    }
    message.to_vec().expect("encodes")
}

/// What a server for one address says to a client's message.
pub(in crate::net) fn serve(bytes: &[u8], client: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let question = Message::decode(&mut Decoder::new(bytes)).expect("our own message decodes");
    let reply = match kind(&question) {
        MessageType::Discover => MessageType::Offer,
        _ => MessageType::Ack,
    };
    let mut answer = answer(&question, reply, address, &[]);
    answer[28..34].copy_from_slice(&client);
    answer
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().expect("has a type")
}

/// Takes a fresh client to bound at `now`; returns its lease.
fn bind(client: &mut Client, now: Millis, options: &[DhcpOption]) -> Lease {
    client.handle(now, Input::Carrier(true));
    let discover = question(client.next_effect());
    assert_eq!(kind(&discover), MessageType::Discover);
    client.handle(
        now,
        Input::Message(&answer(&discover, MessageType::Offer, OURS, options)),
    );
    let request = question(client.next_effect());
    assert_eq!(kind(&request), MessageType::Request);
    client.handle(
        now,
        Input::Message(&answer(&request, MessageType::Ack, OURS, options)),
    );
    let Some(Effect::Lease(Some(lease))) = client.next_effect() else {
        panic!("no lease")
    };
    assert_eq!(client.next_effect(), None);
    lease
}

#[test]
fn asks_the_moment_there_is_carrier_and_not_before() {
    let mut client = client();
    client.handle(0, Input::Tick);
    assert_eq!((client.next_effect(), client.deadline()), (None, None));
    client.handle(1234, Input::Carrier(true));
    let discover = question(client.next_effect());
    assert_eq!(kind(&discover), MessageType::Discover);
    assert_eq!(
        discover.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("node1".to_owned()))
    );
    assert_eq!(discover.chaddr(), MAC);
    assert_eq!(client.next_effect(), None);
}

#[test]
fn the_offered_address_is_requested_of_the_server_that_offered_it() {
    let mut client = client();
    client.handle(0, Input::Carrier(true));
    let discover = question(client.next_effect());
    client.handle(
        5,
        Input::Message(&answer(&discover, MessageType::Offer, OURS, &[])),
    );
    let request = question(client.next_effect());
    assert_eq!(request.xid(), discover.xid());
    assert_eq!(
        request.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    assert_eq!(
        request.opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );
    assert_eq!(request.ciaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(client.lease(), None, "an offer is not a lease");
}

#[test]
fn silence_is_met_by_repeating_ever_more_slowly_and_never_in_step() {
    let gaps = |seed| {
        let mut client = Client::new(
            Identity {
                mac: MAC,
                hostname: None,
                hint: None,
            },
            seed,
        );
        client.handle(0, Input::Carrier(true));
        let mut last = 0;
        let mut gaps = Vec::new();
        for _ in 0..9 {
            assert_eq!(kind(&question(client.next_effect())), MessageType::Discover);
            assert_eq!(client.next_effect(), None, "one message at a time");
            let at = client.deadline().expect("will repeat");
            client.handle(at - 1, Input::Tick);
            assert_eq!(client.next_effect(), None, "not before its time");
            client.handle(at, Input::Tick);
            gaps.push(at - last);
            last = at;
        }
        gaps
    };
    let one = gaps(1);
    for (gap, nominal) in one.iter().zip([1, 2, 4, 8, 16, 32, 64, 64, 64]) {
        let nominal = nominal * 1000;
        assert!(
            (nominal * 3 / 4..=nominal * 5 / 4).contains(gap),
            "{gap} ms is not about {nominal} ms"
        );
    }
    assert_ne!(one, gaps(2), "two machines repeat at different times");
    assert_eq!(one, gaps(1), "one seed, one run");
}

#[test]
fn a_lease_carries_what_the_server_said() {
    let mut client = client();
    let lease = bind(
        &mut client,
        0,
        &[
            DhcpOption::DomainNameServer(vec![SERVER, Ipv4Addr::new(9, 9, 9, 9), OURS, OURS]),
            DhcpOption::DomainName("example.org".to_owned()),
            DhcpOption::InterfaceMtu(1400),
        ],
    );
    assert_eq!(
        (lease.address, lease.prefix, lease.gateway()),
        (OURS, 24, Some(SERVER))
    );
    assert_eq!(
        lease.dns,
        [SERVER, Ipv4Addr::new(9, 9, 9, 9), OURS],
        "three at most"
    );
    assert_eq!(lease.search, ["example.org"]);
    assert_eq!(lease.mtu, Some(1400));
    assert_eq!(
        (lease.renew_s, lease.rebind_s, lease.valid_s),
        (Some(1800), Some(3150), Some(3600))
    );
}

#[test]
fn classless_routes_replace_the_router_option() {
    let far = Ipv4Addr::new(192, 168, 0, 0);
    let raw = vec![16, 192, 168, 10, 0, 0, 2, 0, 10, 0, 0, 3];
    let option = DhcpOption::Unknown(dhcproto::v4::UnknownOption::new(
        OptionCode::ClasslessStaticRoute,
        raw,
    ));
    let lease = bind(&mut client(), 0, &[option]);
    let route = |destination, prefix, last| LeaseRoute {
        destination,
        prefix,
        gateway: Ipv4Addr::new(10, 0, 0, last),
    };
    assert_eq!(
        lease.routes,
        [route(far, 16, 2), route(Ipv4Addr::UNSPECIFIED, 0, 3)]
    );
    assert_eq!(lease.gateway(), Some(Ipv4Addr::new(10, 0, 0, 3)));
}

#[test]
fn a_name_that_would_break_resolv_conf_is_left_out() {
    let lease = bind(
        &mut client(),
        0,
        &[DhcpOption::DomainName(
            "good.example evil\u{7f}name a;b".to_owned(),
        )],
    );
    assert_eq!(lease.search, ["good.example"]);
}

#[test]
fn unusable_offers_and_strangers_answers_change_nothing() {
    let mut client = client();
    client.handle(0, Input::Carrier(true));
    let discover = question(client.next_effect());
    let mut other = discover.clone();
    other.set_xid(discover.xid().wrapping_add(1));
    let holes = DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0));
    let offer = answer(&discover, MessageType::Offer, OURS, &[]);
    let mut question_back = offer.clone();
    question_back[0] = 1;
    let mut card = offer.clone();
    card[33] ^= 1;
    let bad = [
        answer(&other, MessageType::Offer, OURS, &[]),
        answer(&discover, MessageType::Offer, Ipv4Addr::UNSPECIFIED, &[]),
        answer(&discover, MessageType::Offer, Ipv4Addr::BROADCAST, &[]),
        answer(&discover, MessageType::Offer, OURS, &[holes]),
        answer(&discover, MessageType::Ack, OURS, &[]),
        answer(&discover, MessageType::Nak, OURS, &[]),
        question_back,
        card,
        Vec::new(),
    ];
    for bytes in bad
        .iter()
        .map(Vec::as_slice)
        .chain((0..offer.len().min(240)).map(|cut| &offer[..cut]))
    {
        client.handle(1, Input::Message(bytes));
        assert_eq!(client.next_effect(), None);
    }
    client.handle(2, Input::Message(&offer));
    assert_eq!(kind(&question(client.next_effect())), MessageType::Request);
}

#[test]
fn an_offer_that_is_never_acknowledged_is_given_up() {
    let mut client = client();
    client.handle(0, Input::Carrier(true));
    let discover = question(client.next_effect());
    client.handle(
        0,
        Input::Message(&answer(&discover, MessageType::Offer, OURS, &[])),
    );
    for _ in 0..REQUESTS_MAX {
        assert_eq!(kind(&question(client.next_effect())), MessageType::Request);
        let at = client.deadline().expect("will repeat");
        client.handle(at, Input::Tick);
    }
    let again = question(client.next_effect());
    assert_eq!(kind(&again), MessageType::Discover);
    assert_ne!(
        again.xid(),
        discover.xid(),
        "a late acknowledgement must not count"
    );
    assert!(
        client.waiting_for().contains("did not acknowledge"),
        "{}",
        client.waiting_for()
    );
}

#[test]
fn a_refused_offer_starts_over_after_a_pause() {
    let mut client = client();
    client.handle(0, Input::Carrier(true));
    let discover = question(client.next_effect());
    client.handle(
        0,
        Input::Message(&answer(&discover, MessageType::Offer, OURS, &[])),
    );
    let request = question(client.next_effect());
    client.handle(
        0,
        Input::Message(&answer(
            &request,
            MessageType::Nak,
            OURS,
            &[DhcpOption::Message("wrong\nnet".to_owned())],
        )),
    );
    assert_eq!(client.next_effect(), None, "does not spin");
    assert!(
        client.waiting_for().contains("refused: wrongnet"),
        "{}",
        client.waiting_for()
    );
    let at = client.deadline().expect("will try again");
    assert!(at >= 500);
    client.handle(at, Input::Tick);
    assert_eq!(kind(&question(client.next_effect())), MessageType::Discover);
}

#[test]
fn at_half_time_the_lease_is_renewed_with_its_server_alone() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    assert_eq!(client.deadline(), Some(1_800_000));
    client.handle(1_800_000, Input::Tick);
    let effect = client.next_effect();
    assert!(
        matches!(
            &effect,
            Some(Effect::Unicast {
                from: OURS,
                to: SERVER,
                ..
            })
        ),
        "{effect:?}"
    );
    let renewal = question(effect);
    assert_eq!(
        (kind(&renewal), renewal.ciaddr()),
        (MessageType::Request, OURS)
    );
    assert_eq!(
        renewal.opts().get(OptionCode::ServerIdentifier),
        None,
        "RFC 2131 §4.3.2"
    );
    assert_eq!(
        renewal.opts().get(OptionCode::RequestedIpAddress),
        None,
        "RFC 2131 §4.3.2"
    );
    client.handle(
        1_800_020,
        Input::Message(&answer(&renewal, MessageType::Ack, OURS, &[])),
    );
    assert_eq!(
        client.next_effect(),
        None,
        "the same lease again is no change"
    );
    assert_eq!(
        client.deadline(),
        Some(3_600_000),
        "counted from the request, not from the answer"
    );
}

#[test]
fn a_silent_server_leads_from_renewing_over_rebinding_to_no_address() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    let (mut unicasts, mut broadcasts, mut now) = (0, 0, 0);
    loop {
        let at = client.deadline().expect("always has a next step");
        assert!(at > now, "time moves on");
        now = at;
        client.handle(now, Input::Tick);
        match client.next_effect() {
            Some(Effect::Unicast { .. }) => unicasts += 1,
            Some(Effect::Broadcast(_)) => broadcasts += 1,
            Some(Effect::Lease(None)) => break,
            None => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        now, 3_600_000,
        "the address is used to the last moment and no longer"
    );
    assert!(
        unicasts >= 4 && broadcasts >= 3,
        "{unicasts} renewals, {broadcasts} rebindings"
    );
    assert_eq!(client.lease(), None);
    assert_eq!(kind(&question(client.next_effect())), MessageType::Discover);
}

#[test]
fn any_server_may_answer_a_rebinding() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    client.handle(3_150_000, Input::Tick);
    let rebinding = question(client.next_effect());
    assert_eq!(rebinding.ciaddr(), OURS);
    let other = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 2));
    client.handle(
        3_150_010,
        Input::Message(&answer(&rebinding, MessageType::Ack, OURS, &[other])),
    );
    assert_eq!(
        client.lease().map(|lease| lease.server),
        Some(Ipv4Addr::new(10, 0, 0, 2))
    );
}

#[test]
fn after_a_pulled_cable_the_old_address_is_confirmed() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    client.handle(10_000, Input::Carrier(false));
    assert!(
        client.lease().is_some(),
        "the lease survives a pulled cable"
    );
    client.handle(20_000, Input::Carrier(true));
    let request = question(client.next_effect());
    assert_eq!(kind(&request), MessageType::Request);
    assert_eq!(
        request.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    client.handle(
        20_010,
        Input::Message(&answer(&request, MessageType::Ack, OURS, &[])),
    );
    assert_eq!(
        (client.next_effect(), client.deadline()),
        (None, Some(1_820_000))
    );
}

#[test]
fn on_another_network_the_old_address_is_dropped_at_once() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    client.handle(10_000, Input::Carrier(false));
    client.handle(20_000, Input::Carrier(true));
    let request = question(client.next_effect());
    client.handle(
        20_010,
        Input::Message(&answer(&request, MessageType::Nak, OURS, &[])),
    );
    assert_eq!(client.next_effect(), Some(Effect::Lease(None)));
    let discover = question(client.next_effect());
    assert_eq!(kind(&discover), MessageType::Discover);
    assert_eq!(
        discover.opts().get(OptionCode::RequestedIpAddress),
        None,
        "the refused address is not asked for"
    );
}

#[test]
fn with_the_server_away_the_old_address_stays_until_its_time() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    client.handle(10_000, Input::Carrier(false));
    client.handle(20_000, Input::Carrier(true));
    for _ in 0..REBOOTS_MAX {
        assert_eq!(kind(&question(client.next_effect())), MessageType::Request);
        client.handle(client.deadline().expect("repeats"), Input::Tick);
    }
    assert_eq!(client.next_effect(), None);
    assert!(client.lease().is_some());
    assert_eq!(
        client.deadline(),
        Some(1_800_000),
        "renewal at the old time"
    );
}

#[test]
fn a_lease_ends_even_without_carrier() {
    let mut client = client();
    bind(&mut client, 0, &[]);
    client.handle(10_000, Input::Carrier(false));
    assert_eq!(client.deadline(), Some(3_600_000));
    client.handle(3_600_000, Input::Tick);
    assert_eq!(client.next_effect(), Some(Effect::Lease(None)));
    assert_eq!(
        (client.next_effect(), client.deadline()),
        (None, None),
        "nothing is sent without carrier"
    );
}

#[test]
fn an_endless_lease_is_never_renewed() {
    let mut client = client();
    let lease = bind(&mut client, 0, &[DhcpOption::AddressLeaseTime(u32::MAX)]);
    assert_eq!((lease.valid_s, client.deadline()), (None, None));
}

#[test]
fn absurd_times_are_put_in_order() {
    let times = [
        DhcpOption::AddressLeaseTime(100),
        DhcpOption::Renewal(500),
        DhcpOption::Rebinding(400),
    ];
    let lease = bind(&mut client(), 0, &times);
    assert_eq!(
        (lease.renew_s, lease.rebind_s, lease.valid_s),
        (Some(50), Some(88), Some(100))
    );
    let lease = bind(&mut client(), 0, &[DhcpOption::AddressLeaseTime(0)]);
    assert_eq!(lease.valid_s, Some(10));
}
