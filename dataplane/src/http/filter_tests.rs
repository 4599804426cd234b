use proptest::prelude::*;

use super::*;

fn chats(text: &str) -> Result<Filter, Problem> {
    parse(text, List::Chats)
}

fn title(text: &str) -> Filter {
    Filter::TitleIn(vec![text.to_owned()])
}

fn not(inner: Filter) -> Filter {
    Filter::Not(Box::new(inner))
}

fn and(a: Filter, b: Filter) -> Filter {
    Filter::And(Box::new(a), Box::new(b))
}

fn or(a: Filter, b: Filter) -> Filter {
    Filter::Or(Box::new(a), Box::new(b))
}

/// API-45
#[test]
fn every_form_of_the_grammar_is_read() {
    let id = Uuid::from_u128(1);
    let at = Timestamp::from_micros(1_900_000_000_000_000);
    let cases = [
        ("title eq 'a'".to_owned(), title("a")),
        (
            "  TITLE  eq 'it''s (a), b' ".to_owned(),
            title("it's (a), b"),
        ),
        ("title ne 'a'".to_owned(), not(title("a"))),
        ("title eq null".to_owned(), Filter::TitleIsNull),
        ("title ne null".to_owned(), not(Filter::TitleIsNull)),
        (
            "title in ('a','b' , '')".to_owned(),
            Filter::TitleIn(vec!["a".into(), "b".into(), String::new()]),
        ),
        (
            "contains(title,'50%')".to_owned(),
            Filter::TitleHas(Place::Anywhere, "50%".to_owned()),
        ),
        (
            "startswith( Title , '_')".to_owned(),
            Filter::TitleHas(Place::AtStart, "_".to_owned()),
        ),
        (
            "endswith(title,'\\')".to_owned(),
            Filter::TitleHas(Place::AtEnd, "\\".to_owned()),
        ),
        (format!("id eq {id}"), Filter::IdIn(vec![id])),
        (format!("id eq '{id}'"), Filter::IdIn(vec![id])),
        (format!("id in ({id},'{id}')"), Filter::IdIn(vec![id, id])),
        (
            format!("updated_at gt {at}"),
            Filter::At(Comparison::Greater, at),
        ),
        (
            format!("updated_at le {at}"),
            Filter::At(Comparison::LessOrEqual, at),
        ),
        (format!("updated_at in ({at})"), Filter::AtIn(vec![at])),
        (
            "title eq 'a' or title eq 'b' and title eq 'c'".to_owned(),
            or(title("a"), and(title("b"), title("c"))),
        ),
        (
            "(title eq 'a' or title eq 'b') and not title eq 'c'".to_owned(),
            and(or(title("a"), title("b")), not(title("c"))),
        ),
    ];
    for (text, filter) in cases {
        assert_eq!(chats(&text).unwrap(), filter, "{text}");
    }
    let messages = parse("not (role eq 'user')", List::Messages).unwrap();
    assert_eq!(messages, not(Filter::RoleIn(vec![Role::User])));
}

/// API-46
#[test]
fn what_is_not_in_the_grammar_is_an_invalid_filter() {
    for text in [
        "",
        "title",
        "title eq",
        "title eq a",
        "title eq 5",
        "title gt 'a'",
        "title has 'a'",
        "title eq title",
        "'a' eq title",
        "title in ()",
        "title in ('a',)",
        "title in (null)",
        "title eq 'a",
        "title eq 'a' title eq 'b'",
        "title eq 'a' and",
        "(title eq 'a'",
        "title eq 'a')",
        "contains(title)",
        "contains(title,'a'",
        "contains(id,'a')",
        "contains(title,null)",
        "tolower(title) eq 'a'",
        "nothing eq 'a'",
        "role eq 'user'",
        "created_at gt 2030-01-01T00:00:00Z",
        "updated_at gt '2030-01-01T00:00:00Z'",
        "updated_at gt 2030-01-01",
        "updated_at gt 2030-13-01T00:00:00Z",
        "updated_at gt 0000-01-01T00:00:00Z",
        "updated_at eq null",
        "id eq null",
        "id eq 5",
        "id gt 00000000-0000-0000-0000-000000000001",
        "title eq 'a' ; drop table chats",
        "title eq 'a\0'",
        "title = 'a'",
    ] {
        let problem = chats(text).unwrap_err();
        assert_eq!(problem.code, ErrorCode::InvalidFilter, "{text}");
        assert!(problem.detail.starts_with("$filter "), "{}", problem.detail);
    }
    let problem = parse("role eq 'robot'", List::Messages).unwrap_err();
    assert_eq!(problem.code, ErrorCode::InvalidFilter);
}

/// API-46: an exceeded limit has its own error, and nesting never exhausts the
/// stack.
#[test]
fn the_budgets_are_kept() {
    let fits = format!("title eq '{}'", "a".repeat(MAX_BYTES - 11));
    assert!(chats(&fits).is_ok());
    let long = format!("title eq '{}'", "a".repeat(MAX_BYTES - 10));
    assert_eq!(chats(&long).unwrap_err().code, ErrorCode::InvalidRequest);
    let many = format!("title in ({}'')", "'',".repeat(MAX_NODES));
    assert!(many.len() <= MAX_BYTES);
    assert_eq!(chats(&many).unwrap_err().code, ErrorCode::InvalidRequest);
    for (opening, closing) in [("(", ")"), ("not ", "")] {
        let nested = |levels: usize| {
            let (opening, closing) = (opening.repeat(levels), closing.repeat(levels));
            chats(&format!("{opening}title eq null{closing}"))
        };
        assert!(nested(MAX_DEPTH).is_ok());
        assert_eq!(
            nested(MAX_DEPTH + 1).unwrap_err().code,
            ErrorCode::InvalidFilter
        );
        assert!(nested(1900).is_err());
    }
}

/// A condition, written with as few parentheses as the grammar allows.
fn written(filter: &Filter) -> String {
    let quoted = |text: &String| format!("'{}'", text.replace('\'', "''"));
    let list = |values: Vec<String>| values.join(",");
    match filter {
        Filter::Or(a, b) => format!("{} or ({})", written(a), written(b)),
        Filter::And(a, b) => format!("({}) and ({})", written(a), written(b)),
        Filter::Not(inner) => format!("not ({})", written(inner)),
        Filter::TitleIn(texts) => {
            format!("title in ({})", list(texts.iter().map(quoted).collect()))
        }
        Filter::TitleIsNull => "title eq null".to_owned(),
        Filter::TitleHas(place, text) => {
            let name = match place {
                Place::Anywhere => "contains",
                Place::AtStart => "startswith",
                Place::AtEnd => "endswith",
            };
            format!("{name}(title,{})", quoted(text))
        }
        Filter::IdIn(ids) => {
            format!(
                "id in ({})",
                list(ids.iter().map(Uuid::to_string).collect())
            )
        }
        Filter::At(comparison, at) => {
            let operator = match comparison {
                Comparison::Equal => "eq",
                Comparison::Greater => "gt",
                Comparison::GreaterOrEqual => "ge",
                Comparison::Less => "lt",
                Comparison::LessOrEqual => "le",
            };
            format!("updated_at {operator} {at}")
        }
        Filter::AtIn(instants) => {
            let instants = instants.iter().map(Timestamp::to_string).collect();
            format!("updated_at in ({})", list(instants))
        }
        Filter::RoleIn(_) => unreachable!("chats have no role"),
    }
}

fn conditions() -> impl Strategy<Value = Filter> {
    let text = || "[a'%_\\\\() ,ä]{0,4}".prop_map(String::from);
    let at = || super::super::cursor::INSTANTS.prop_map(Timestamp::from_micros);
    let place = prop_oneof![
        Just(Place::Anywhere),
        Just(Place::AtStart),
        Just(Place::AtEnd)
    ];
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::Greater),
        Just(Comparison::GreaterOrEqual),
        Just(Comparison::Less),
        Just(Comparison::LessOrEqual),
    ];
    let leaf = prop_oneof![
        Just(Filter::TitleIsNull),
        prop::collection::vec(text(), 1..3).prop_map(Filter::TitleIn),
        (place, text()).prop_map(|(place, text)| Filter::TitleHas(place, text)),
        prop::collection::vec(any::<u128>().prop_map(Uuid::from_u128), 1..3).prop_map(Filter::IdIn),
        (comparison, at()).prop_map(|(comparison, at)| Filter::At(comparison, at)),
        prop::collection::vec(at(), 1..3).prop_map(Filter::AtIn),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(not),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| and(a, b)),
            (inner.clone(), inner).prop_map(|(a, b)| or(a, b)),
        ]
    })
}

proptest! {
    #[test]
    fn a_filter_reads_back_as_written(filter in conditions()) {
        prop_assert_eq!(chats(&written(&filter)).unwrap(), filter);
    }

    /// API-46: any text gets an answer without a panic.
    #[test]
    fn any_text_is_a_filter_or_refused(text in "(title|id|updated_at|role|eq|in|not|and|or|contains|null|[ '(),\\PC]){0,30}") {
        for list in [List::Chats, List::Messages] {
            if let Err(problem) = parse(&text, list) {
                prop_assert_eq!(problem.code, ErrorCode::InvalidFilter);
            }
        }
    }
}

/// API-27, API-45: the document lists exactly the operators that a filter
/// accepts.
#[test]
fn the_operators_that_a_field_names_are_those_it_takes() {
    let literal = |field: Field| match field {
        Field::Title => "'a'",
        Field::At => "2030-01-01T00:00:00Z",
        Field::Id => "018f6d0e-7c1a-7b11-9d00-0a54b1d2c3e4",
        Field::Role => "'user'",
    };
    for list in [List::Chats, List::Messages] {
        for (name, field) in fields(list) {
            let literal = literal(*field);
            for operator in [
                "eq",
                "ne",
                "gt",
                "ge",
                "lt",
                "le",
                "in",
                "contains",
                "startswith",
                "endswith",
            ] {
                let text = match operator {
                    "in" => format!("{name} in ({literal})"),
                    "contains" | "startswith" | "endswith" => {
                        format!("{operator}({name},{literal})")
                    }
                    _ => format!("{name} {operator} {literal}"),
                };
                let is_named = field.operators().contains(&operator);
                assert_eq!(parse(&text, list).is_ok(), is_named, "{text}");
            }
        }
    }
}
