-- The schema of the first release, for both databases. {type} stands for the
-- database's own type; every constraint has a name that the store can report.

CREATE TABLE chats (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    model {str1024} NOT NULL,
    title {str255},
    is_temporary {bool} NOT NULL DEFAULT {false},
    created_at {ts} NOT NULL,
    updated_at {ts} NOT NULL,
    deleted_at {ts}
){strict};

-- Read backwards. A chat that moves to the front goes to the right end, where a page is split once for many chats; at
-- the left end SQLite would write three pages anew for each.
CREATE INDEX chats_by_activity ON chats (tenant_id, user_id, updated_at, id)
    WHERE deleted_at IS NULL;

CREATE TABLE messages (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    request_id {uuid},
    role {str16} NOT NULL CONSTRAINT messages_role_value
        CHECK (role IN ('user', 'assistant', 'system')),
    content {text} NOT NULL DEFAULT '',
    content_type {str32} NOT NULL DEFAULT 'text',
    token_estimate {i32} NOT NULL DEFAULT 0 CHECK (token_estimate >= 0),
    provider_response_id {str128},
    request_kind {str16} CONSTRAINT messages_request_kind_value
        CHECK (request_kind IN ('chat', 'summary', 'doc_summary')),
    features_used {json} NOT NULL DEFAULT '[]',
    input_tokens {i64} NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    output_tokens {i64} NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    cache_read_input_tokens {i64} NOT NULL DEFAULT 0 CHECK (cache_read_input_tokens >= 0),
    cache_write_input_tokens {i64} NOT NULL DEFAULT 0 CHECK (cache_write_input_tokens >= 0),
    reasoning_tokens {i64} NOT NULL DEFAULT 0 CHECK (reasoning_tokens >= 0),
    model {str1024},
    is_compressed {bool} NOT NULL DEFAULT {false},
    created_at {ts} NOT NULL,
    deleted_at {ts}
){strict};

CREATE UNIQUE INDEX messages_role ON messages (chat_id, request_id, role)
    WHERE request_id IS NOT NULL AND deleted_at IS NULL;
CREATE UNIQUE INDEX messages_in_chat ON messages (id, chat_id);
CREATE INDEX messages_by_time ON messages (chat_id, created_at, id)
    WHERE deleted_at IS NULL;

CREATE TABLE chat_turns (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    request_id {uuid} NOT NULL,
    requester_type {str16} NOT NULL CONSTRAINT chat_turns_requester_type_value
        CHECK (requester_type IN ('user', 'system')),
    requester_user_id {uuid},
    state {str16} NOT NULL CONSTRAINT chat_turns_state_value
        CHECK (state IN ('running', 'completed', 'failed', 'cancelled')),
    provider_name {str128},
    provider_response_id {str128},
    assistant_message_id {uuid} REFERENCES messages (id) ON DELETE SET NULL,
    error_code {str64},
    error_detail {text},
    reserve_tokens {i64},
    reserved_credits_micro {i64},
    policy_version_applied {i64},
    max_output_tokens_applied {i32},
    minimal_generation_floor_applied {i32},
    effective_model {str1024},
    reserve_day {date},
    web_search_enabled {bool} NOT NULL DEFAULT {false},
    web_search_completed_count {i32} NOT NULL DEFAULT 0,
    code_interpreter_completed_count {i32} NOT NULL DEFAULT 0,
    deleted_at {ts},
    replaced_by_request_id {uuid},
    started_at {ts} NOT NULL,
    last_progress_at {ts},
    completed_at {ts},
    updated_at {ts} NOT NULL,
    CONSTRAINT chat_turns_state_times CHECK (
        (state = 'running' AND completed_at IS NULL AND last_progress_at IS NOT NULL)
        OR (state <> 'running' AND completed_at IS NOT NULL)
    )
){strict};

CREATE UNIQUE INDEX chat_turns_request ON chat_turns (chat_id, request_id);
CREATE UNIQUE INDEX chat_turns_one_running ON chat_turns (chat_id)
    WHERE state = 'running' AND deleted_at IS NULL;
CREATE INDEX chat_turns_by_time ON chat_turns (chat_id, started_at DESC)
    WHERE deleted_at IS NULL;
CREATE INDEX chat_turns_by_progress ON chat_turns (last_progress_at)
    WHERE state = 'running' AND deleted_at IS NULL;
-- No index on assistant_message_id: nothing deletes messages, and every turn
-- would pay for it. What deletes them brings one.

CREATE TABLE attachments (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    uploaded_by_user_id {uuid} NOT NULL,
    filename {str255} NOT NULL,
    content_type {str128} NOT NULL,
    size_bytes {i64} NOT NULL CHECK (size_bytes >= 0),
    storage_backend {str32} NOT NULL,
    provider_file_id {str128},
    status {str16} NOT NULL CONSTRAINT attachments_status_value
        CHECK (status IN ('pending', 'uploaded', 'ready', 'failed')),
    error_code {str64},
    attachment_kind {str16} NOT NULL CONSTRAINT attachments_kind_value
        CHECK (attachment_kind IN ('document', 'image')),
    for_file_search {bool} NOT NULL DEFAULT {false},
    for_code_interpreter {bool} NOT NULL DEFAULT {false},
    doc_summary {text},
    img_thumbnail {bytes},
    img_thumbnail_width {i32} CHECK (img_thumbnail_width >= 0),
    img_thumbnail_height {i32} CHECK (img_thumbnail_height >= 0),
    summary_model {str1024},
    summary_updated_at {ts},
    cleanup_status {str16} CONSTRAINT attachments_cleanup_status_value
        CHECK (cleanup_status IN ('pending', 'done', 'failed')),
    cleanup_attempts {i32} NOT NULL DEFAULT 0 CHECK (cleanup_attempts >= 0),
    last_cleanup_error {text},
    cleanup_updated_at {ts},
    created_at {ts} NOT NULL,
    updated_at {ts} NOT NULL,
    deleted_at {ts}
){strict};

CREATE UNIQUE INDEX attachments_in_chat ON attachments (id, chat_id);
CREATE INDEX attachments_by_chat ON attachments (tenant_id, chat_id)
    WHERE deleted_at IS NULL;
CREATE INDEX attachments_to_clean ON attachments (cleanup_status)
    WHERE cleanup_status IS NOT NULL;

CREATE TABLE message_attachments (
    chat_id {uuid} NOT NULL,
    message_id {uuid} NOT NULL,
    attachment_id {uuid} NOT NULL,
    tenant_id {uuid} NOT NULL,
    created_at {ts} NOT NULL,
    PRIMARY KEY (chat_id, message_id, attachment_id),
    FOREIGN KEY (message_id, chat_id) REFERENCES messages (id, chat_id) ON DELETE CASCADE,
    FOREIGN KEY (attachment_id, chat_id) REFERENCES attachments (id, chat_id) ON DELETE CASCADE
){strict};

CREATE INDEX message_attachments_by_chat ON message_attachments (tenant_id, chat_id);
CREATE INDEX message_attachments_by_attachment
    ON message_attachments (attachment_id, chat_id);
CREATE INDEX message_attachments_by_message ON message_attachments (message_id, chat_id);

CREATE TABLE thread_summaries (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    summary_text {text} NOT NULL,
    summarized_up_to_created_at {ts} NOT NULL,
    summarized_up_to_message_id {uuid} NOT NULL,
    token_estimate {i32} NOT NULL DEFAULT 0 CHECK (token_estimate >= 0),
    created_at {ts} NOT NULL,
    updated_at {ts} NOT NULL
){strict};

CREATE UNIQUE INDEX thread_summaries_chat ON thread_summaries (chat_id);

CREATE TABLE chat_vector_stores (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    vector_store_id {str128},
    provider {str128} NOT NULL,
    file_count {i32} NOT NULL DEFAULT 0 CHECK (file_count >= 0),
    created_at {ts} NOT NULL
){strict};

CREATE UNIQUE INDEX chat_vector_stores_chat ON chat_vector_stores (tenant_id, chat_id);
CREATE INDEX chat_vector_stores_by_chat ON chat_vector_stores (chat_id);

CREATE TABLE quota_usage (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    period_type {str16} NOT NULL CONSTRAINT quota_usage_period_type_value
        CHECK (period_type IN ('daily', 'monthly')),
    period_start {date} NOT NULL,
    bucket {str32} NOT NULL,
    spent_credits_micro {i64} NOT NULL DEFAULT 0 CHECK (spent_credits_micro >= 0),
    reserved_credits_micro {i64} NOT NULL DEFAULT 0 CHECK (reserved_credits_micro >= 0),
    calls {i32} NOT NULL DEFAULT 0 CHECK (calls >= 0),
    input_tokens {i64} NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    output_tokens {i64} NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    file_search_calls {i32} NOT NULL DEFAULT 0 CHECK (file_search_calls >= 0),
    web_search_calls {i32} NOT NULL DEFAULT 0 CHECK (web_search_calls >= 0),
    code_interpreter_calls {i32} NOT NULL DEFAULT 0 CHECK (code_interpreter_calls >= 0),
    rag_retrieval_calls {i32} NOT NULL DEFAULT 0 CHECK (rag_retrieval_calls >= 0),
    image_inputs {i32} NOT NULL DEFAULT 0 CHECK (image_inputs >= 0),
    image_upload_bytes {i64} NOT NULL DEFAULT 0 CHECK (image_upload_bytes >= 0),
    updated_at {ts} NOT NULL
){strict};

CREATE UNIQUE INDEX quota_usage_cell
    ON quota_usage (tenant_id, user_id, period_type, period_start, bucket);

CREATE TABLE message_reactions (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    message_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    chat_id {uuid} NOT NULL,
    reaction {str16} NOT NULL CONSTRAINT message_reactions_reaction_value
        CHECK (reaction IN ('like', 'dislike')),
    created_at {ts} NOT NULL,
    FOREIGN KEY (message_id, chat_id) REFERENCES messages (id, chat_id) ON DELETE CASCADE
){strict};

CREATE UNIQUE INDEX message_reactions_user ON message_reactions (message_id, user_id);
CREATE INDEX message_reactions_by_chat ON message_reactions (chat_id);

CREATE TABLE policy_snapshots (
    tenant_id {uuid} NOT NULL,
    policy_version {i64} NOT NULL,
    content_hash {str128} NOT NULL,
    snapshot {json} NOT NULL,
    created_at {ts} NOT NULL,
    CONSTRAINT policy_snapshots_pkey PRIMARY KEY (tenant_id, policy_version)
){strict};

CREATE TABLE outbox_partitions (
    queue {str128} NOT NULL,
    partition {i32} NOT NULL,
    locked_by {str128},
    locked_until {ts},
    attempts {i32} NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at {ts},
    last_error {text},
    PRIMARY KEY (queue, partition)
){strict};

CREATE TABLE outbox_messages (
    id {serial},
    queue {str128} NOT NULL,
    partition {i32} NOT NULL,
    tenant_id {uuid} NOT NULL,
    dedupe_key {str255},
    payload_type {str64} NOT NULL,
    payload {text} NOT NULL,
    created_at {ts} NOT NULL,
    done_at {ts}
){strict};

CREATE INDEX outbox_messages_pending ON outbox_messages (queue, partition, id)
    WHERE done_at IS NULL;
CREATE UNIQUE INDEX outbox_messages_dedupe ON outbox_messages (queue, dedupe_key)
    WHERE dedupe_key IS NOT NULL;

CREATE TABLE outbox_dead_letters (
    id {serial},
    queue {str128} NOT NULL,
    partition {i32} NOT NULL,
    message_id {i64} NOT NULL,
    tenant_id {uuid} NOT NULL,
    dedupe_key {str255},
    payload_type {str64} NOT NULL,
    payload {text} NOT NULL,
    attempts {i32} NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error {text},
    status {str16} NOT NULL DEFAULT 'pending' CONSTRAINT outbox_dead_letters_status_value
        CHECK (status IN ('pending', 'reprocessing', 'resolved', 'discarded')),
    created_at {ts} NOT NULL,
    failed_at {ts} NOT NULL
){strict};

CREATE INDEX outbox_dead_letters_open ON outbox_dead_letters (queue, status, failed_at);
