-- What lets PostgreSQL reserve and finalize in one statement each.

-- Grows with everything that adds turns to a chat or takes some of them away, so
-- that a statement finds out whether the chat is still as it was read.
ALTER TABLE chats ADD COLUMN revision {i64} NOT NULL DEFAULT 0;

-- Which attempt ended a turn, so that one whose answer was lost is recognized.
ALTER TABLE chat_turns ADD COLUMN finalization_id {uuid};
