use minichat_config::tenant::{ProviderAuth, ProviderKind, ProviderTimeouts, Scheme};
use proptest::prelude::*;

use super::*;

fn mask(prefix: &str, secret: &str) -> Mask {
    let provider = Provider {
        id: "main".to_owned(),
        kind: ProviderKind::OpenAiResponses,
        scheme: Scheme::Https,
        host: "vllm".to_owned(),
        port: 8443,
        api_path: "/v1/responses".to_owned(),
        auth: Some(ProviderAuth {
            header: "Authorization".to_owned(),
            prefix: prefix.to_owned(),
            secret_ref: "main/key".to_owned(),
        }),
        timeouts: ProviderTimeouts::default(),
        send_penalties: false,
        send_metadata: false,
        storage: None,
    };
    Mask::new(&provider, Some(&Secret::new(secret)))
}

/// PLAT-102, PLAT-117
#[test]
fn a_credential_is_masked_in_every_form_in_which_it_was_sent() {
    let secret = r#"aB3/x+"y\z=Q7?"#;
    let mask = mask("Bearer ", secret);
    let forms = [
        secret.to_owned(),
        format!("Bearer {secret}"),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE.encode(format!("Bearer {secret}")),
        "aB3%2Fx%2B%22y%5Cz%3DQ7%3F".to_owned(),
        "aB3%2fx%2b%22y%5cz%3dQ7%3f".to_owned(),
        r#"aB3/x+\"y\\z=Q7?"#.to_owned(),
        r#"aB3\/x+\"y\\z=Q7?"#.to_owned(),
    ];
    for form in forms {
        for (before, after) in [("", ""), ("key '", "' is wrong"), ("xx", "xx")] {
            let masked = mask
                .credential_in(&format!("{before}{form}{after}"))
                .into_owned();
            let rest = masked.replace("Bearer ", "").replace(CREDENTIAL, "");
            let rest = rest.trim_end_matches('=');
            assert_eq!(rest, format!("{before}{after}"), "{form}: {masked}");
        }
    }
}

#[test]
fn the_parts_of_basic_authentication_are_masked() {
    for (prefix, secret) in [
        ("Basic ", STANDARD.encode("alice:open sesame")),
        (
            "",
            format!("Basic {}", STANDARD.encode("alice:open sesame")),
        ),
    ] {
        let mask = mask(prefix, &secret);
        let masked = mask
            .credential_in("alice:open sesame, open sesame, alice")
            .into_owned();
        assert_eq!(masked, "[credential], [credential], [credential]");
        assert!(!mask.credential_in(&secret).contains("YWxp"));
    }
}

/// The part that a provider leaves unmasked is masked too.
#[test]
fn the_remainder_beside_stars_is_masked() {
    let mask = mask("Bearer ", "Zk9qL2mN8vB4");
    for word in ["Zk9q****8vB4", "Zk***", "****vB4", "Zk9qL2...", "…B4"] {
        let text = format!("Incorrect key provided: {word}.");
        let masked = mask.credential_in(&text).into_owned();
        assert_eq!(
            masked.trim_end_matches('.'),
            "Incorrect key provided: [credential]",
            "{word}"
        );
    }
    for text in ["wait...", "2 *** 3", "see ...", "a...b"] {
        assert_eq!(mask.credential_in(text), text);
    }
}

#[test]
fn a_short_credential_is_masked_as_a_word() {
    let mask = mask("Bearer ", "abc");
    assert_eq!(
        mask.credential_in("abc abcd 'abc'"),
        "[credential] abcd '[credential]'"
    );
}

#[test]
fn the_address_of_the_provider_is_masked_as_a_word() {
    let mask = mask("Bearer ", "0123456789");
    assert_eq!(
        mask.all_in("no vllm at vllm:8443, vllms"),
        "no [host] at [host], vllms"
    );
}

fn shown(mask: &Mask, pieces: &[&str]) -> String {
    let mut text_mask = TextMask::new(mask.clone());
    let mut text: String = pieces
        .iter()
        .map(|piece| text_mask.apply(piece).into_owned())
        .collect();
    text.push_str(&text_mask.finish());
    text
}

#[test]
fn a_text_that_ends_in_the_beginning_of_a_credential_is_whole() {
    let mask = mask("Bearer ", "aabaabaac");
    for pieces in [
        &["xaab"][..],
        &["aab", "aab"],
        &["aabaaba", "b"],
        &["a", "a", "a"],
    ] {
        assert_eq!(shown(&mask, pieces), pieces.concat());
    }
    let short = self::mask("Bearer ", "none");
    assert_eq!(shown(&short, &["none of th", "ese"]), "none of these");
}

/// A form within the beginning of a longer one is masked when the text ends there.
#[test]
fn a_form_within_an_undecided_end_is_masked() {
    let credential = STANDARD.encode("abc password xyz:password");
    let mask = mask("Basic ", &credential);
    assert_eq!(shown(&mask, &["abc pass", "word x"]), "abc [credential] x");
    assert_eq!(
        shown(&mask, &["abc pass", "word xy", "z:password."]),
        "[credential]."
    );
}

/// Two forms that share characters leave nothing of either.
#[test]
fn forms_that_overlap_are_masked_as_one() {
    let mask = mask("Basic ", &STANDARD.encode("overlapped:peddled-it"));
    for pieces in [&["-overlappeddled-it-"][..], &["-overlapped", "dled-it-"]] {
        assert_eq!(shown(&mask, pieces), "-[credential]-");
    }
    assert_eq!(shown(&mask, &["-overlapped", "dle-"]), "-[credential]dle-");
    assert_eq!(shown(&mask, &["-overlapped"]), "-[credential]");
}

proptest! {
    #[test]
    fn a_credential_is_masked_wherever_it_is_cut(
        before in "[ab]{0,6}",
        after in "[ab]{0,6}",
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let secret = "abaababa-key";
        let mask = mask("Bearer ", secret);
        let whole = format!("{before}{secret}{after}");
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        prop_assert_eq!(shown(&mask, &pieces), format!("{before}[credential]{after}"));
    }
}
