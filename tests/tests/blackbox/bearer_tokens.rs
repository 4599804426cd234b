//! Bearer tokens of the process's own issuer: which are accepted, and which
//! caller they identify.

use futures_util::future::try_join_all;
use http::Method;
use minichat_tests::client::{Answer, Api};
use minichat_tests::harness::{Env, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_issuer::{ALGORITHMS, Behaviour, ScriptedIssuer, Signer, now};
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

/// A data plane with its own scripted issuer and one tenant.
struct Setup {
    issuer: ScriptedIssuer,
    signer: Signer,
    tenant: Tenant,
    stack: Stack,
    provider: ScriptedProvider,
}

impl Setup {
    async fn open(env: &Env) -> anyhow::Result<Self> {
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve_with(&[&tenant], &issuer.settings()).await?;
        Ok(Self {
            issuer,
            signer,
            tenant,
            stack,
            provider,
        })
    }

    /// The claims of a user of the tenant.
    fn claims(&self, change: &Value) -> Value {
        let mut all = json!({"tenant_id": self.tenant.id, "sub": "auth0|alice"});
        for (name, value) in change.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        self.issuer.claims(&all)
    }

    /// A token with these claims.
    fn token(&self, change: &Value) -> String {
        self.signer.token(&self.claims(change))
    }

    /// The caller that `token` identifies.
    fn bearer(&self, token: &str) -> anyhow::Result<Api> {
        bearer(&self.stack, token)
    }

    async fn answer(&self, token: &str) -> anyhow::Result<Answer> {
        self.bearer(token)?.get("/chats").await
    }
}

fn bearer(stack: &Stack, token: &str) -> anyhow::Result<Api> {
    stack
        .api
        .with_header("authorization", &format!("Bearer {token}"))
}

fn check_unauthenticated(answer: &Answer, case: &str) -> anyhow::Result<()> {
    answer
        .problem(401, "unauthenticated")
        .map_err(|error| error.context(case.to_owned()))?;
    assert_eq!(answer.header("www-authenticate"), "Bearer", "{case}");
    Ok(())
}

on_each_database! {
    /// PLAT-131: RS, PS and ES with 256, 384 and 512 bits, and EdDSA.
    async fn a_token_of_every_accepted_algorithm_opens_the_tenant(env) {
        let setup = Setup::open(&env).await?;
        let signers: Vec<_> = ALGORITHMS
            .iter()
            .map(|algorithm| Signer::new(algorithm, algorithm))
            .collect::<Result<_, _>>()?;
        setup.issuer.publish(&signers.iter().collect::<Vec<_>>());
        for signer in &signers {
            let answer = setup.answer(&signer.token(&setup.claims(&json!({})))).await?;
            answer.expect(200).map_err(|error| error.context(format!("{signer:?}")))?;
        }
        // RFC 7515: without `kid`, any key may be meant.
        let unnamed = signers[9].token_with(&json!({"alg": "EdDSA"}), &setup.claims(&json!({})));
        setup.answer(&unnamed).await?.expect(200)?;
    }

    /// API-12, PLAT-131; check 6 of chapter 01
    async fn whoever_brings_no_believable_token_is_unauthenticated(env) {
        let setup = Setup::open(&env).await?;
        let valid = setup.token(&json!({}));
        let (signed, signature) = valid.rsplit_once('.').unwrap_or_default();
        let (header, _) = signed.split_once('.').unwrap_or_default();
        let stranger = Signer::new("first", "EdDSA")?;
        let claims = setup.claims(&json!({}));
        let altered = stranger.token(&setup.claims(&json!({"sub": "mallory"})));
        let altered = altered.split('.').nth(1).unwrap_or_default();
        let with = |header: Value| setup.signer.token_with(&header, &claims);
        let said = |change: Value| setup.token(&change);
        let tokens = [
            ("no token", "garbage".to_owned()),
            ("two parts", signed.to_owned()),
            ("an empty signature", format!("{signed}.")),
            ("other claims under the signature", format!("{header}.{altered}.{signature}")),
            ("a stranger's key with the same name", stranger.token(&claims)),
            ("none", with(json!({"alg": "none"}))),
            ("HS256", with(json!({"alg": "HS256", "kid": "first"}))),
            ("the algorithm of another kind", with(json!({"alg": "RS256", "kid": "first"}))),
            ("an unknown extension", with(json!({"alg": "EdDSA", "kid": "first", "crit": ["x"]}))),
            ("a key that it brings along", stranger.token_with(
                &json!({"alg": "EdDSA", "kid": "first", "jwk": stranger.jwk()}), &claims)),
            ("another issuer", said(json!({"iss": "https://login.example.com"}))),
            ("no issuer", said(json!({"iss": null}))),
            ("another audience", said(json!({"aud": "else"}))),
            ("no audience", said(json!({"aud": null}))),
            ("expired", said(json!({"exp": now() - 61}))),
            ("no end", said(json!({"exp": null}))),
            ("not yet valid", said(json!({"nbf": now() + 120}))),
            ("no tenant", said(json!({"tenant_id": null}))),
            ("a tenant that is no UUID", said(json!({"tenant_id": "acme"}))),
            ("no user", said(json!({"sub": null}))),
            ("an empty user", said(json!({"sub": ""}))),
            ("scopes that are a number", said(json!({"scope": 1}))),
        ];
        for (case, token) in tokens {
            check_unauthenticated(&setup.answer(&token).await?, case)?;
        }
        let api = &setup.stack.api;
        check_unauthenticated(&api.get("/chats").await?, "no header")?;
        for value in ["", "Basic YTpi", "Bearer", "Bearer ", valid.as_str()] {
            let answer = api.with_header("authorization", value)?.get("/chats").await?;
            check_unauthenticated(&answer, value)?;
        }
        let twice = format!("Bearer {valid}");
        let twice = [("authorization", twice.as_str()), ("authorization", twice.as_str())];
        let answer = api.exchange(Method::GET, "/chats", &twice, bytes::Bytes::new()).await?;
        check_unauthenticated(&answer, "two headers")?;
        // The identity headers of another mode have no effect.
        let headers = api.acting_as(setup.tenant.id, Uuid::new_v4())?.get("/chats").await?;
        check_unauthenticated(&headers, "identity headers")?;
        setup.answer(&valid).await?.expect(200)?;
    }

    /// PLAT-131
    async fn clocks_may_differ_by_a_minute_and_audiences_be_several(env) {
        let setup = Setup::open(&env).await?;
        for good in [
            json!({"exp": now() - 50}),
            json!({"nbf": now() + 55}),
            json!({"nbf": now() - 3600}),
            json!({"aud": ["else", "minichat"]}),
        ] {
            let answer = setup.answer(&setup.token(&good)).await?;
            answer.expect(200).map_err(|error| error.context(good.to_string()))?;
        }
    }

    /// PLAT-132
    async fn a_subject_is_the_same_user_each_time_and_after_a_restart(env) {
        let setup = Setup::open(&env).await?;
        let chat = setup.bearer(&setup.token(&json!({})))?.create_chat(None).await?;
        let path = format!("/chats/{chat}");
        let bob = setup.token(&json!({"sub": "auth0|bob"}));
        setup.bearer(&bob)?.get(&path).await?.problem(404, "chat_not_found")?;

        let Setup { issuer, signer, tenant, stack, provider: _provider } = setup;
        stack.stop().await?;
        let stack = env.serve_with(&[&tenant], &issuer.settings()).await?;
        let later = issuer.token(&signer, &json!({"tenant_id": tenant.id, "sub": "auth0|alice"}));
        bearer(&stack, &later)?.get(&path).await?.expect(200)?;

        // A subject that is a UUID is used as the user id.
        let user = Uuid::new_v4();
        let token = issuer.token(&signer, &json!({"tenant_id": tenant.id, "sub": user}));
        bearer(&stack, &token)?.create_chat(None).await?;
        let rows = env.database.query("SELECT CAST(user_id AS TEXT) FROM chats ORDER BY created_at").await?;
        assert_eq!(rows[1][0].as_deref(), Some(user.to_string().as_str()));
        assert_ne!(rows[0][0], rows[1][0]);
    }

    /// API-13, PLAT-137
    async fn scopes_stand_in_a_text_or_a_list_and_cover_their_operations(env) {
        let setup = Setup::open(&env).await?;
        for (claims, read, write) in [
            (json!({}), true, true),
            (json!({"scope": "openid ai:mini_chat"}), true, true),
            (json!({"scope": "*"}), true, true),
            (json!({"scope": "ai:mini_chat:read profile"}), true, false),
            (json!({"scope": ["ai:mini_chat:write"]}), false, true),
            (json!({"scp": "ai:mini_chat:read"}), true, false),
            (json!({"scp": ["ai:mini_chat:read", "ai:mini_chat:write"]}), true, true),
            (json!({"scope": "openid", "scp": "ai:mini_chat"}), false, false),
        ] {
            let caller = setup.bearer(&setup.token(&claims))?;
            for (answer, granted, status) in [
                (caller.get("/chats").await?, read, 200),
                (caller.post("/chats", &json!({})).await?, write, 201),
            ] {
                if granted {
                    answer.expect(status).map_err(|error| error.context(claims.to_string()))?;
                } else {
                    answer.problem(403, "insufficient_permissions")?;
                }
            }
        }
    }

    /// API-12, PLAT-135: the token is valid, but the tenant is not served.
    async fn a_tenant_that_is_unknown_suspended_or_unlicensed_is_403(env) {
        let mut setup = Setup::open(&env).await?;
        let unknown = setup.token(&json!({"tenant_id": Uuid::new_v4()}));
        setup.answer(&unknown).await?.problem(403, "feature_not_licensed")?;
        let known = setup.token(&json!({}));
        setup.answer(&known).await?.expect(200)?;
        for change in [json!({"suspended": true}), json!({"features": {"aiChat": false}})] {
            let mut tenant = setup.tenant.clone();
            for (field, value) in change.as_object().into_iter().flatten() {
                tenant.spec()[field] = value.clone();
            }
            setup.stack.write_manifest("acme", &tenant.manifest())?;
            let refused = async || Ok(setup.answer(&known).await?.status == 403);
            setup.stack.eventually("refused", refused).await?;
            setup.answer(&known).await?.problem(403, "feature_not_licensed")?;
        }
        setup.tenant.spec()["suspended"] = json!(false);
        setup.stack.write_manifest("acme", &setup.tenant.manifest())?;
        let served = async || Ok(setup.answer(&known).await?.status == 200);
        setup.stack.eventually("served again", served).await?;
    }

    /// PLAT-138, TURN-9: a token is checked when its stream opens. If the token
    /// expires or the tenant loses the feature, only the next request is
    /// refused.
    async fn a_stream_outlives_its_token_and_its_tenants_licence(env) {
        let mut setup = Setup::open(&env).await?;
        setup.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let chat = setup.bearer(&setup.token(&json!({})))?.create_chat(None).await?;
        // Accepted for one more minute, of which a few seconds are left.
        let caller = setup.bearer(&setup.token(&json!({"exp": now() - 55})))?;
        let mut stream = caller.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let status = async |caller: &Api| anyhow::Ok(caller.get("/chats").await?.status);
        let expired = async || Ok(status(&caller).await? == 401);
        setup.stack.eventually("expired", expired).await?;
        check_unauthenticated(&caller.retry(&chat, &chat).await?, "an expired token")?;
        let valid = setup.bearer(&setup.token(&json!({})))?;
        setup.tenant.spec()["features"] = json!({"aiChat": false});
        setup.stack.write_manifest("acme", &setup.tenant.manifest())?;
        let refused = async || Ok(status(&valid).await? == 403);
        setup.stack.eventually("refused", refused).await?;
        setup.provider.release(1);
        stream.expect("done").await?;
    }

    /// PLAT-131: keys are fetched again for an unknown `kid`, at most once a
    /// minute.
    async fn a_new_key_is_fetched_once_and_unknown_ones_bring_no_storm(env) {
        let setup = Setup::open(&env).await?;
        let old = setup.token(&json!({}));
        setup.answer(&old).await?.expect(200)?;
        assert_eq!(setup.issuer.fetches(), 1);
        try_join_all((0..20).map(|_| setup.answer(&old))).await?;
        assert_eq!(setup.issuer.fetches(), 1);

        let next = Signer::new("second", "ES256")?;
        setup.issuer.publish(&[&next]);
        let new = next.token(&setup.claims(&json!({})));
        for answer in try_join_all((0..20).map(|_| setup.answer(&new))).await? {
            answer.expect(200)?;
        }
        assert_eq!(setup.issuer.fetches(), 2);
        check_unauthenticated(&setup.answer(&old).await?, "a key that was withdrawn")?;

        for round in 0..20 {
            let unknown = Signer::new(&format!("unknown-{round}"), "EdDSA")?;
            let token = unknown.token(&setup.claims(&json!({})));
            check_unauthenticated(&setup.answer(&token).await?, "an unknown key")?;
        }
        assert_eq!(setup.issuer.fetches(), 2);
        setup.answer(&new).await?.expect(200)?;
    }

    /// PLAT-131: cached keys stay valid.
    async fn while_the_issuer_is_away_its_known_keys_go_on(env) {
        let setup = Setup::open(&env).await?;
        setup.answer(&setup.token(&json!({}))).await?.expect(200)?;
        for behaviour in [Behaviour::Down, Behaviour::Broken, Behaviour::Hung] {
            setup.issuer.set_behaviour(behaviour);
            let stranger = Signer::new("unknown", "EdDSA")?.token(&setup.claims(&json!({})));
            check_unauthenticated(&setup.answer(&stranger).await?, "an unknown key")?;
            setup.answer(&setup.token(&json!({}))).await?.expect(200)?;
        }
    }

    /// API-12, PLAT-139, D5; check 6 of chapter 01
    async fn without_any_key_ever_loaded_nobody_can_be_judged(env) {
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        issuer.set_behaviour(Behaviour::Down);
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve_with(&[&tenant], &issuer.settings()).await?;
        let token = issuer.token(&signer, &json!({"tenant_id": tenant.id, "sub": "alice"}));
        let caller = bearer(&stack, &token)?;
        for behaviour in [Behaviour::Down, Behaviour::Broken, Behaviour::Impostor] {
            issuer.set_behaviour(behaviour);
            caller.get("/chats").await?.problem(503, "service_unavailable")?;
        }
        issuer.set_behaviour(Behaviour::Well);
        issuer.publish(&[]);
        caller.get("/chats").await?.problem(503, "service_unavailable")?;
        // All requests that wait for a hanging issuer share one attempt.
        issuer.set_behaviour(Behaviour::Hung);
        for answer in try_join_all((0..20).map(|_| caller.get("/chats"))).await? {
            answer.problem(503, "service_unavailable")?;
        }
        // Requests that need no key are still decided.
        check_unauthenticated(&stack.api.get("/chats").await?, "no token")?;
        let foreign = issuer.token(&signer, &json!({"iss": "https://login.example.com"}));
        let answer = bearer(&stack, &foreign)?.get("/chats").await?;
        check_unauthenticated(&answer, "a token of another issuer")?;

        issuer.publish(&[&signer]);
        issuer.set_behaviour(Behaviour::Well);
        let opened = async || Ok(caller.get("/chats").await?.status == 200);
        stack.eventually("opened", opened).await?;
    }
}
