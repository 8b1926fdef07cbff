-- `EmbeddedStore._settle`, for the worker's settlement and for the janitor's.
-- `s` has the fields of a `Settlement`; `emit(attempt)` appends its ledger event.
-- Returns known, applied, run; the run is nil when the store has none.

local function remembered(attempt_id)
  local row = redis.call('HMGET', key('attempt', attempt_id), 'state', 'reserved', 'cost', 'tokens', 'ended_at',
    'ordinal', 'orphan', 'holds', 'takes', 'run')
  local state = row[1]
  if not state or state == 'void' then
    return nil
  end
  local attempt = {
    state = state, reserved = tonumber(row[2]), cost = tonumber(row[3]), tokens = tonumber(row[4]),
    ordinal = tonumber(row[6]), orphan = row[7] or '', run = row[10],
  }
  if state ~= 'open' then
    local memory = state == 'provisional' and PROVISIONAL_MEMORY_MS or SETTLED_MEMORY_MS
    if now - tonumber(row[5]) > memory then
      return nil
    end
  end
  attempt.holds = row[8] and cmsgpack.unpack(row[8]) or {}
  attempt.takes = row[9] and cmsgpack.unpack(row[9]) or nil
  return attempt
end

-- Put what an attempt really used in the place of what it had put into a bucket.
local function correct(k, taken, used)
  local count = tonumber(redis.call('GET', k))
  if count then
    redis.call('SET', k, int(math.max(0, count + used - taken)), 'KEEPTTL')
  end
end

-- Give back what an open attempt took of rates; `tokens` and `money` are what it really used.
local function release_rates(takes, tokens, money)
  for _, k in ipairs(takes.in_flight) do
    local open = tonumber(redis.call('GET', k))
    if open then
      if open > 1 then
        redis.call('SET', k, int(open - 1), 'KEEPTTL')
      else
        redis.call('DEL', k)
      end
    end
  end
  for _, k in ipairs(takes.token_buckets) do
    correct(k, takes.tokens, tokens)
  end
  for _, k in ipairs(takes.money_buckets or {}) do
    correct(k, takes.money, money)
  end
end

local function settle(s, emit)
  local run = load_run(s.run_id)
  local attempt = remembered(s.attempt_id)
  if not attempt then
    if not s.adopt then
      return false, false, run
    end
    attempt = {state = 'lost', reserved = 0, cost = 0, tokens = 0, ordinal = 0, orphan = '', holds = s.holds}
  end
  if attempt.state == 'settled' or (attempt.state == 'provisional' and s.provisional) then
    return true, false, run
  end

  -- The event comes first: a server out of memory refuses it before anything has changed.
  emit(attempt)
  local was_open = attempt.state == 'open'
  local released = was_open and attempt.reserved or 0
  local delta = s.cost - attempt.cost
  for _, hold in ipairs(attempt.holds) do
    local c = counter(hold[1])
    c.used = c.used + delta
    c.reserved = c.reserved - released
    c.expires_at = math.max(c.expires_at, hold[2])
    save_counter(c)
  end
  if was_open then
    release_rates(attempt.takes, s.tokens, s.cost)
    redis.call('ZREM', LEASES_KEY, s.attempt_id)
  end
  if run then
    run.cost = run.cost + delta
    run.tokens = run.tokens + s.tokens - attempt.tokens
    if was_open then
      run.open = run.open - 1
      run.reserved = run.reserved - released
    end
    run.tool_calls = run.tool_calls + s.tool_calls
    run.last_at = now
    for _, name in ipairs(s.links) do
      link(name, run.id, now + s.index_ttl_ms)
    end
    if s.head ~= '' then
      run.head = s.head
    end
    if s.completes then
      run.answered_at = now
      if not run.explicit and run.open == 0 and run.status == 'running' then
        run.status = 'completed'
      end
    end
    redis.call('HSET', key('run', run.id), 'cost', int(run.cost), 'tokens', int(run.tokens), 'open', int(run.open),
      'reserved', int(run.reserved), 'tool_calls', int(run.tool_calls), 'last_at', int(now), 'head', run.head,
      'answered_at', int(run.answered_at), 'status', run.status)
    if s.ends_as ~= '' then
      run.status = s.ends_as
      redis.call('HSET', key('run', run.id), 'status', s.ends_as, 'reason', s.ends_because)
    end
    if s.waited_ms > 0 then
      redis.call('HINCRBY', key('run', run.id), 'waited_ms', int(s.waited_ms))
    end
    if s.progress ~= '' then
      redis.call('HSET', key('run', run.id), 'progress', s.progress)
    end
    schedule_run(run, run.seen and now + run.idle_ttl_ms or run.started_at + UNSEEN_RUN_TTL_MS)
  end
  local retries = load_retries(s.retry_key)
  for _, retry in ipairs(retries) do
    if retry.run_id == s.run_id then
      retry.failed = not s.succeeded
      retry.at = now
      retry.expires_at = now + RETRY_WINDOW_MS
      save_retries(s.retry_key, retries)
    end
  end

  local k = key('attempt', s.attempt_id)
  redis.call('DEL', k)
  if s.provisional then
    redis.call('HSET', k, 'state', 'provisional', 'cost', int(s.cost), 'tokens', int(s.tokens),
      'ended_at', int(now), 'holds', cmsgpack.pack(attempt.holds))
    redis.call('PEXPIRE', k, int(PROVISIONAL_MEMORY_MS + SLACK_MS))
  else
    redis.call('HSET', k, 'state', 'settled', 'ended_at', int(now))
    redis.call('PEXPIRE', k, int(SETTLED_MEMORY_MS + MINUTE_MS))
  end
  return true, true, run
end
