//! Ways to make PostgreSQL plan badly. A statement may take longer under them; what it answers must stay the same.

/// A setting and its value.
type Setting = (&'static str, &'static str);

/// What misleads the planner.
#[derive(Debug)]
pub struct Plan {
    settings: &'static [Setting],
    /// What each table is said to hold, in rows and pages.
    sizes: Option<(u32, u32)>,
}

const fn settings(settings: &'static [Setting]) -> Plan {
    Plan {
        settings,
        sizes: None,
    }
}

/// Statistics that were true once, or never.
const fn sizes(rows: u32, pages: u32) -> Plan {
    Plan {
        settings: &[],
        sizes: Some((rows, pages)),
    }
}

pub const PLANS: [Plan; 12] = [
    settings(&[
        ("enable_indexscan", "off"),
        ("enable_indexonlyscan", "off"),
        ("enable_bitmapscan", "off"),
    ]),
    settings(&[("enable_seqscan", "off")]),
    settings(&[("enable_nestloop", "off")]),
    settings(&[("enable_nestloop", "off"), ("enable_hashjoin", "off")]),
    settings(&[("enable_nestloop", "off"), ("enable_mergejoin", "off")]),
    settings(&[("enable_hashjoin", "off"), ("enable_mergejoin", "off")]),
    settings(&[("enable_sort", "off"), ("enable_hashagg", "off")]),
    settings(&[("join_collapse_limit", "1"), ("from_collapse_limit", "1")]),
    settings(&[("plan_cache_mode", "force_custom_plan")]),
    settings(&[("plan_cache_mode", "auto")]),
    sizes(0, 1_000_000),
    sizes(1_000_000_000, 1),
];

impl Plan {
    /// Settings of every session. To compile what is only thought to be expensive would take longer than everything
    /// else.
    pub fn settings(&self) -> Vec<Setting> {
        [self.settings, &[("jit", "off")]].concat()
    }

    /// Statements that make it so for the tables that there are.
    pub fn statements(&self) -> Vec<String> {
        let Some((rows, pages)) = self.sizes else {
            return Vec::new();
        };
        // Nothing may find out the truth.
        let keep = "DO $$ DECLARE name TEXT; BEGIN \
             FOR name IN SELECT relname FROM pg_class \
             WHERE relkind = 'r' AND relnamespace = CAST('public' AS REGNAMESPACE) \
             LOOP EXECUTE format('ALTER TABLE public.%I SET (autovacuum_enabled = off)', name); \
             END LOOP; END $$";
        let mislead = format!(
            "UPDATE pg_class SET reltuples = {rows}, relpages = {pages} \
             WHERE relkind IN ('r', 'i') AND relnamespace = CAST('public' AS REGNAMESPACE)"
        );
        vec![keep.to_owned(), mislead]
    }
}
