-- How runs, budget counters, index entries and retries are kept: for every script that touches one.

local RUN_COLUMNS = {
  'principal', 'session', 'name', 'explicit', 'continues', 'started_at', 'last_at', 'idle_ttl_ms', 'status',
  'seen', 'steps', 'open', 'tool_calls', 'tokens', 'cost', 'reserved', 'head', 'answered_at', 'budget',
  'budget_limit', 'landed', 'waited_ms',
}

-- A run, its absent texts as ''; `name` and `continues` carry a leading '+' when they are given. What only some
-- runs have is a field of few hashes: `ancestors` (ids, one a line), `progress`, `landed`, `ending` (JSON),
-- `waited_ms`.
local function load_run(id)
  local row = redis.call('HMGET', key('run', id), unpack(RUN_COLUMNS))
  if not row[1] then
    return nil
  end
  return {
    id = id,
    principal = row[1],
    session = row[2],
    name = row[3],
    explicit = row[4] == '1',
    continues = row[5],
    started_at = tonumber(row[6]),
    last_at = tonumber(row[7]),
    idle_ttl_ms = tonumber(row[8]),
    status = row[9],
    seen = row[10] == '1',
    steps = tonumber(row[11]),
    open = tonumber(row[12]),
    tool_calls = tonumber(row[13]),
    tokens = tonumber(row[14]),
    cost = tonumber(row[15]),
    reserved = tonumber(row[16]),
    head = row[17],
    answered_at = tonumber(row[18]),
    budget = row[19],
    budget_limit = tonumber(row[20]),
    landed = tonumber(row[21]) or 0,
    waited_ms = tonumber(row[22]) or 0,
  }
end

-- Tell the janitor when to look at a run again, and Redis when it may forget it.
local function schedule_run(run, due)
  redis.call('ZADD', LIVE_KEY, int(due), run.id)
  redis.call('PEXPIRE', key('run', run.id), int(math.max(due - now, run.idle_ttl_ms) + DAY_MS + SLACK_MS))
end

-- Budget counters, one table per key and script, so that two charges on one key see each other.
local counters = {}
local function is_live(c)
  return c.expires_at >= now or c.reserved > 0
end
local function counter(name)
  local c = counters[name]
  if c then
    return c
  end
  local k = key('counter', name)
  local row = redis.call('HMGET', k, 'used', 'reserved', 'expires_at', 'warned')
  c = {
    key = k,
    used = tonumber(row[1]) or 0,
    reserved = tonumber(row[2]) or 0,
    expires_at = tonumber(row[3]) or 0,
    warned = row[4] == '1',
  }
  if not is_live(c) then
    c.used, c.reserved, c.expires_at, c.warned = 0, 0, 0, false
  end
  counters[name] = c
  return c
end
local function save_counter(c)
  redis.call('HSET', c.key, 'used', int(c.used), 'reserved', int(c.reserved),
    'expires_at', int(c.expires_at), 'warned', bit(c.warned))
  redis.call('PEXPIRE', c.key, int(math.max(c.expires_at - now, 0) + SLACK_MS))
end

-- Index entries: when they stop counting, then run ids, the latest last.
local function lookup_index(name)
  local packed = redis.call('GET', key('index', name))
  if not packed then
    return {}
  end
  local entry = cmsgpack.unpack(packed)
  if entry[1] < now then
    return {}
  end
  table.remove(entry, 1)
  return entry
end
local function save_index(name, ids, expires_at)
  table.insert(ids, 1, expires_at)
  redis.call('SET', key('index', name), cmsgpack.pack(ids), 'PX', int(math.max(expires_at - now, 0) + SLACK_MS))
end
local function link(name, run_id, expires_at)
  local ids = lookup_index(name)
  local known = false
  for _, id in ipairs(ids) do
    known = known or id == run_id
  end
  if not known then
    ids[#ids + 1] = run_id
    if #ids > INDEX_WIDTH then
      table.remove(ids, 1)
    end
  end
  save_index(name, ids, expires_at)
end

-- The steps that runs made of one conversation, the latest last: {run id, ordinal, failed, count, at, until} each.
local function load_retries(name)
  local packed = redis.call('GET', key('retry', name))
  local retries = {}
  for _, entry in ipairs(packed and cmsgpack.unpack(packed) or {}) do
    if entry[6] >= now then
      retries[#retries + 1] = {run_id = entry[1], ordinal = entry[2], failed = entry[3], count = entry[4],
        at = entry[5], expires_at = entry[6]}
    end
  end
  return retries
end
local function save_retries(name, retries)
  local entries, expires_at = {}, now
  for i, retry in ipairs(retries) do
    entries[i] = {retry.run_id, retry.ordinal, retry.failed, retry.count, retry.at, retry.expires_at}
    expires_at = math.max(expires_at, retry.expires_at)
  end
  redis.call('SET', key('retry', name), cmsgpack.pack(entries), 'PX', int(expires_at - now + RETRY_WINDOW_MS))
end
