-- What the scripts of breakers begin with: `gateway.stores.embedded_breakers`.
-- A breaker is one packed list: {expires_at, window_ms, started_at, current, previous, opened_at, until, probing,
-- passed, probes, streak, failing_since}, a period {ok, failed, sources}. `{gw}:breakers` names them all, by when
-- they are forgotten.

local BREAKER_TTL_MS = 86400000
local BREAKER_MEMORY = 4096
local BREAKER_SOURCES = 16
local BREAKERS_KEY = TAG .. 'breakers'

local function load_breaker(name)
  local packed = redis.call('GET', key('breaker', name))
  local row = packed and cmsgpack.unpack(packed)
  if not row or row[1] < now then
    return nil
  end
  return {
    expires_at = row[1], window_ms = row[2], started_at = row[3], current = row[4], previous = row[5],
    opened_at = row[6], until_ = row[7], probing = row[8], passed = row[9], probes = row[10],
    -- Those written by an earlier version end before.
    streak = row[11] or 0, failing_since = row[12] or 0,
  }
end
local function save_breaker(name, b)
  local packed = cmsgpack.pack({b.expires_at, b.window_ms, b.started_at, b.current, b.previous, b.opened_at,
    b.until_, b.probing, b.passed, b.probes, b.streak, b.failing_since})
  redis.call('SET', key('breaker', name), packed, 'PX', int(b.expires_at - now + MINUTE_MS))
  local ends_in = math.max(b.expires_at - now + MINUTE_MS, redis.call('PTTL', BREAKERS_KEY))
  redis.call('ZADD', BREAKERS_KEY, int(b.expires_at), name)
  redis.call('PEXPIRE', BREAKERS_KEY, int(ends_in))
end

local function tally(b)
  local age, new, old, left = math.max(0, now - b.started_at), b.current, b.previous, nil
  if age < b.window_ms then
    left = b.window_ms - age
  elseif age < 2 * b.window_ms then
    new, old, left = {0, 0}, b.current, 2 * b.window_ms - age
  else
    return 0, 0
  end
  return new[1] + share(old[1], left, b.window_ms), new[2] + share(old[2], left, b.window_ms)
end

-- {key, state, ok, failed, opened_at, until}
local function view(name, b)
  local ok, failed = tally(b)
  local is_open = now < b.until_
  local state = is_open and 'open' or b.opened_at > 0 and 'half_open' or 'closed'
  return {name, state, int(ok), int(failed), int(b.opened_at), int(is_open and b.until_ or 0)}
end
