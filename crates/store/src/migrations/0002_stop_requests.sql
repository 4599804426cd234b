-- A request to stop a running turn (D3) outlives the moment in which it is
-- announced: a process that was not listening then finds it here.

ALTER TABLE chat_turns ADD COLUMN stop_requested_at {ts};
