-- Which process runs a turn, and whether it lives.

-- Processes that serve this database.
CREATE TABLE processes (
    id {uuid} NOT NULL PRIMARY KEY,
    started_at {ts} NOT NULL,
    heartbeat_at {ts} NOT NULL,
    steady_since {ts} NOT NULL
){strict};

ALTER TABLE chat_turns ADD COLUMN process_id {uuid};
