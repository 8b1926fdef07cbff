-- `EmbeddedStore.report`. {'OK', the breaker's view}

local name, source, ok, failed = text(), text(), number(), number()
local error_rate, min_calls, window_ms, open_ms = number(), number(), number(), number()
local probes, min_sources, dead_after_ms = number(), number(), number()

local b = load_breaker(name)
if not b then
  if redis.call('ZCARD', BREAKERS_KEY) >= BREAKER_MEMORY then
    redis.call('ZREMRANGEBYSCORE', BREAKERS_KEY, '-inf', '(' .. int(now))
    if redis.call('ZCARD', BREAKERS_KEY) >= BREAKER_MEMORY then
      redis.call('DEL', key('breaker', redis.call('ZPOPMIN', BREAKERS_KEY)[1]))
    end
  end
  b = {
    expires_at = 0, window_ms = window_ms, started_at = now, current = {0, 0, {}}, previous = {0, 0, {}},
    opened_at = 0, until_ = 0, probing = false, passed = 0, probes = {}, streak = 0, failing_since = 0,
  }
end

local function has(sources, wanted)
  for _, known in ipairs(sources) do
    if known == wanted then
      return true
    end
  end
  return false
end
local function fails()
  local good, bad = tally(b)
  local sources = #b.current[3]
  for _, known in ipairs(b.previous[3]) do
    sources = sources + (has(b.current[3], known) and 0 or 1)
  end
  local half = bad > 0 and good + bad >= min_calls and bad >= error_rate * (good + bad)
  local dead = dead_after_ms > 0 and math.min(b.streak, bad) >= min_calls
    and now - b.failing_since >= dead_after_ms
  return (half or dead) and sources >= math.min(min_sources, BREAKER_SOURCES)
end
local function open()
  b.opened_at, b.until_, b.probing, b.passed, b.probes = now, now + open_ms, false, 0, {}
end
local function close()
  b.started_at, b.current, b.previous = now, {0, 0, {}}, {0, 0, {}}
  b.opened_at, b.until_, b.probing, b.passed, b.probes, b.streak = 0, 0, false, 0, {}, 0
end

b.window_ms = window_ms
local age = now - b.started_at
if age >= 2 * window_ms then
  b.previous, b.current, b.started_at = {0, 0, {}}, {0, 0, {}}, now
elseif age >= window_ms then
  b.previous, b.current, b.started_at = b.current, {0, 0, {}}, b.started_at + window_ms
end
local period = b.current
period[1], period[2] = period[1] + ok, period[2] + failed
if ok > 0 then
  b.streak = 0
elseif failed > 0 then
  b.failing_since = b.streak > 0 and b.failing_since or now
  b.streak = b.streak + failed
end
if failed > 0 and #period[3] < BREAKER_SOURCES and not has(period[3], source) then
  table.insert(period[3], source)
end
if b.opened_at == 0 then
  if fails() then
    open()
  end
elseif b.probing and failed > 0 then
  open()
elseif b.probing then
  b.passed = b.passed + ok
  for _ = 1, math.min(ok, #b.probes) do
    table.remove(b.probes, 1)
  end
  if b.passed >= probes then
    close()
  end
end
b.expires_at = math.max(now, b.until_) + BREAKER_TTL_MS
save_breaker(name, b)
return {'OK', view(name, b)}
