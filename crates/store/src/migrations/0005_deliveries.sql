-- What delivers the outbox needs, and what lets the books be compared.

-- The backlog of one tenant, so that a pass skips that of another in one step.
DROP INDEX outbox_messages_pending;
CREATE INDEX outbox_messages_pending
    ON outbox_messages (queue, partition, tenant_id, id) WHERE done_at IS NULL;

-- A lease is held for one pass. Attempts are counted per tenant. Nothing was
-- ever written here.
DROP TABLE outbox_partitions;
CREATE TABLE outbox_partitions (
    queue {str128} NOT NULL,
    partition {i32} NOT NULL,
    locked_by {str128},
    locked_until {ts},
    PRIMARY KEY (queue, partition)
){strict};

-- Tenants whose sink fails or is slow, while it is.
CREATE TABLE outbox_parked (
    queue {str128} NOT NULL,
    partition {i32} NOT NULL,
    tenant_id {uuid} NOT NULL,
    attempts {i32} NOT NULL CHECK (attempts >= 0),
    next_attempt_at {ts} NOT NULL,
    failing_since {ts} NOT NULL,
    last_error {text},
    locked_by {str128},
    PRIMARY KEY (queue, partition, tenant_id)
){strict};

-- Usage events whose messages are deleted, added up.
CREATE TABLE usage_rollups (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    model {str1024} NOT NULL,
    day {date} NOT NULL,
    events {i64} NOT NULL DEFAULT 0 CHECK (events >= 0),
    credits_micro {i64} NOT NULL DEFAULT 0 CHECK (credits_micro >= 0),
    input_tokens {i64} NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    output_tokens {i64} NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    web_search_calls {i64} NOT NULL DEFAULT 0 CHECK (web_search_calls >= 0),
    code_interpreter_calls {i64} NOT NULL DEFAULT 0 CHECK (code_interpreter_calls >= 0),
    PRIMARY KEY (tenant_id, user_id, model, day)
){strict};

-- What the end of a turn booked.
ALTER TABLE chat_turns ADD COLUMN settled_credits_micro {i64};
ALTER TABLE chat_turns ADD COLUMN settlement_method {str16};
