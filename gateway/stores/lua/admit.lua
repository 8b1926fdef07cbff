-- `EmbeddedStore.admit`: check everything, then take everything or nothing.
-- {'VOID'} for an attempt whose caller has given up before the command arrived,
-- {'KILLED', name's place, reason}, {'NORUN'}, {'ENDED', the ending} for a run that has landed,
-- {'DENIED', code, rule, per, limit, used, need, resets_at, retry_after_ms}, or
-- {'OK', ordinal, reserved, output_tokens, run_remaining or '', admitted_at, holds, warned, shadow_denied}

local attempt_id, run_id, retry_ordinal, retry_key = text(), text(), number(), text()
local limits_enforced, max_steps, max_wall_clock_ms = flag(), number(), number()
local max_tokens, max_tool_calls = number(), number()
local fixed_nano, output_rate, want_tokens, reserve_tokens = number(), number(), number(), number()
local floor_tokens, halve, input_tokens, choices = number(), flag(), number(), number()
local lease_ms, event, orphan, raw_kills = number(), text(), text(), flag()
local landing = text()

local attempt_key = key('attempt', attempt_id)
if redis.call('EXISTS', attempt_key) == 1 then
  return {'VOID'}
end

local names = {}
for i = 1, number() do
  names[i] = text()
end
if #names > 0 then
  local keys = {}
  for i, name in ipairs(names) do
    keys[i] = key('kill', name)
    if raw_kills then
      keys[#names + i] = 'kill:' .. name
    end
  end
  local flags = redis.call('MGET', unpack(keys))
  for i = 1, #names do
    local reason = killed(flags[i]) or flags[#names + i]
    if reason then
      return {'KILLED', int(i - 1), reason}
    end
  end
end

local run = load_run(run_id)
if not run then
  return {'NORUN'}
end
if run.landed > 0 and run.landed ~= retry_ordinal then
  return {'ENDED', redis.call('HGET', key('run', run_id), 'ending')}
end

local charges = {}
for i = 1, number() do
  local charge = {
    rule = text(), per = text(), counter = text(), limit = number(), enforced = flag(), warn_at = number(),
    ttl_ms = number(), kept_back = number(),
  }
  charge.usable = charge.enforced and charge.limit - charge.kept_back or charge.limit
  local windows = {}
  for w = 1, number() do
    windows[w] = {id = text(), ends_at = number()}
  end
  if #windows == 0 then
    charge.expires_at, charge.resets_at = now + charge.ttl_ms, 0
  else
    local window = now < windows[1].ends_at and windows[1] or windows[#windows]
    charge.counter = charge.counter .. ':' .. window.id
    charge.expires_at, charge.resets_at = window.ends_at + DAY_MS, window.ends_at
  end
  charges[i] = charge
end
local rates = {}
for i = 1, number() do
  rates[i] = {
    rule = text(), per = text(), counter = text(), enforced = flag(), requests = number(), tokens = number(),
    runs = number(), concurrency = number(), money = number(),
  }
end

local function denied(code, rule, per, limit, used, need, resets_at, retry_after_ms)
  return {'DENIED', code, rule, per, int(limit), int(used), int(need), int(resets_at), int(retry_after_ms)}
end

local function check_limits()
  if max_steps > 0 and retry_ordinal == 0 and run.steps >= max_steps then
    return denied('step_limit_exceeded', 'runs.max_steps', 'run', max_steps, run.steps, 1, 0, 0)
  end
  local elapsed = now - run.started_at - run.waited_ms
  if max_wall_clock_ms > 0 and elapsed >= max_wall_clock_ms then
    return denied('run_timeout', 'runs.max_wall_clock_s', 'run',
      math.floor(max_wall_clock_ms / 1000), math.floor(elapsed / 1000), 1, 0, 0)
  end
  if max_tokens > 0 and run.tokens >= max_tokens then
    return denied('token_limit_exceeded', 'runs.max_tokens', 'run', max_tokens, run.tokens, 1, 0, 0)
  end
  if max_tool_calls > 0 and run.tool_calls >= max_tool_calls then
    return denied('tool_limit_exceeded', 'runs.max_tool_calls', 'run', max_tool_calls, run.tool_calls, 1, 0, 0)
  end
  return nil
end

local minute, elapsed = math.floor(now / MINUTE_MS), now % MINUTE_MS
local function bucket(rate, kind, back)
  return key('bucket', rate.counter .. ':' .. kind .. ':' .. int(minute - back))
end
local function rate_wait_ms(room, current, previous)
  if room < 0 then
    return 0
  end
  if current <= room then
    return MINUTE_MS - elapsed - math.floor((room - current) * MINUTE_MS / math.max(previous, 1))
  end
  return 2 * MINUTE_MS - elapsed - math.floor(room * MINUTE_MS / current)
end
-- The limits per minute of a rate: {kind, limit, what this attempt needs of it}.
local function per_minute(rate, tokens, money)
  local needs = {{'n', rate.runs, run.seen and 0 or 1}, {'r', rate.requests, 1}, {'t', rate.tokens, tokens}}
  if rate.money > 0 then
    needs[4] = {'m', rate.money, money}
  end
  return needs
end
local function output_cost(tokens)
  return math.ceil(output_rate * tokens)
end
local function check_rate(rate)
  if rate.concurrency > 0 then
    local open = tonumber(redis.call('GET', key('flight', rate.counter))) or 0
    if open >= rate.concurrency then
      return denied('concurrency_limit_exceeded', rate.rule, rate.per, rate.concurrency, open, 1, 0, 1000)
    end
  end
  local tokens, money = input_tokens + reserve_tokens * choices, fixed_nano + output_cost(reserve_tokens)
  for _, check in ipairs(per_minute(rate, tokens, money)) do
    local kind, limit, need = check[1], check[2], check[3]
    if limit > 0 and need ~= 0 then
      local counts = redis.call('MGET', bucket(rate, kind, 0), bucket(rate, kind, 1))
      local current, previous = tonumber(counts[1]) or 0, tonumber(counts[2]) or 0
      local used = current + share(previous, MINUTE_MS - elapsed, MINUTE_MS)
      if used + need > limit then
        return denied('rate_limit_exceeded', rate.rule, rate.per, limit, used, need, 0,
          rate_wait_ms(limit - need, current, previous))
      end
    end
  end
  return nil
end

local shadow = {}
local limit_denial = landing == '' and check_limits() or nil
if limit_denial then
  if limits_enforced then
    return limit_denial
  end
  shadow[#shadow + 1] = limit_denial[3]
end
for _, rate in ipairs(rates) do
  local denial = check_rate(rate)
  if denial then
    if rate.enforced then
      return denial
    end
    shadow[#shadow + 1] = rate.rule
  end
end

local tightest = nil
for _, charge in ipairs(charges) do
  local c = counter(charge.counter)
  local free = charge.usable - c.used - c.reserved
  if charge.enforced and (not tightest or free < tightest) then
    tightest = free
  end
end
local grant = want_tokens
if tightest and output_rate > 0 then
  local afford = math.max(0, math.floor((tightest - fixed_nano) / output_rate))
  if halve then
    afford = math.min(afford, math.max(math.floor(tightest / 2 / output_rate), floor_tokens))
  end
  if afford > 0 and output_cost(afford) > tightest - fixed_nano then
    afford = afford - 1
  end
  grant = math.min(want_tokens, afford)
end
local needed = fixed_nano + output_cost(math.min(floor_tokens, want_tokens))
for _, charge in ipairs(charges) do
  local c = counter(charge.counter)
  if needed > charge.usable - c.used - c.reserved and needed > 0 then
    if charge.enforced then
      local scope = string.match(charge.per, '^[^:]*')
      return denied(scope .. '_budget_exceeded', charge.rule, charge.per, charge.limit, c.used + c.reserved,
        needed, charge.resets_at, 0)
    end
    shadow[#shadow + 1] = charge.rule
  end
end

-- Nothing refuses any more: from here on everything is taken. The attempt comes first, so that a server out of
-- memory refuses before anything has changed.
local granted = math.min(grant, reserve_tokens)
local reserved = fixed_nano + output_cost(granted)
local tokens = input_tokens + granted * choices
local ordinal = retry_ordinal > 0 and retry_ordinal or run.steps + 1
local holds, limits, token_buckets, money_buckets, in_flight = {}, {}, {}, {}, {}
for i, charge in ipairs(charges) do
  holds[i] = {charge.counter, charge.expires_at}
  if charge.enforced then
    limits[#limits + 1] = {charge.counter, charge.usable}
  end
end
for _, rate in ipairs(rates) do
  if rate.tokens > 0 and tokens ~= 0 then
    token_buckets[#token_buckets + 1] = bucket(rate, 't', 0)
  end
  if rate.money > 0 and reserved ~= 0 then
    money_buckets[#money_buckets + 1] = bucket(rate, 'm', 0)
  end
  if rate.concurrency > 0 then
    in_flight[#in_flight + 1] = key('flight', rate.counter)
  end
end
local takes = {limits = limits, token_buckets = token_buckets, tokens = tokens, in_flight = in_flight}
if #money_buckets > 0 then
  takes.money_buckets, takes.money = money_buckets, reserved
end
if landing ~= '' and run.landed == 0 then
  takes.landed = true
end
redis.call('HSET', attempt_key, 'state', 'open', 'run', run_id, 'reserved', int(reserved), 'cost', '0',
  'tokens', '0', 'ended_at', '0', 'ordinal', int(ordinal), 'lease_ms', int(lease_ms), 'orphan', orphan,
  'holds', cmsgpack.pack(holds),
  'takes', cmsgpack.pack(takes))
redis.call('PEXPIRE', attempt_key, int(lease_ms + 2 * DAY_MS))
redis.call('ZADD', LEASES_KEY, int(now + lease_ms), attempt_id)

local warned, run_remaining = {}, ''
for _, charge in ipairs(charges) do
  local c = counter(charge.counter)
  c.reserved = c.reserved + reserved
  c.expires_at = math.max(c.expires_at, charge.expires_at)
  if charge.warn_at ~= 0 and not c.warned and c.used + c.reserved >= charge.warn_at then
    c.warned = true
    warned[#warned + 1] = charge.rule
  end
  if charge.per == 'run' and charge.enforced then
    run_remaining = int(charge.limit - c.used - c.reserved)
    run.budget, run.budget_limit = charge.counter, charge.limit
  end
end
for _, c in pairs(counters) do
  save_counter(c)
end
for _, rate in ipairs(rates) do
  for _, take in ipairs(per_minute(rate, tokens, reserved)) do
    if take[2] > 0 and take[3] ~= 0 then
      local k = bucket(rate, take[1], 0)
      redis.call('INCRBY', k, int(take[3]))
      redis.call('PEXPIRE', k, int(3 * MINUTE_MS))
    end
  end
end
for _, k in ipairs(in_flight) do
  redis.call('INCR', k)
  redis.call('PEXPIRE', k, int(lease_ms + 2 * DAY_MS))
end

redis.call('HSET', key('run', run_id), 'steps', int(math.max(run.steps, ordinal)), 'open', int(run.open + 1),
  'reserved', int(run.reserved + reserved), 'last_at', int(now), 'status', 'running', 'reason', '', 'seen', '1',
  'budget', run.budget, 'budget_limit', int(run.budget_limit))
if landing ~= '' then
  redis.call('HSET', key('run', run_id), 'landed', int(ordinal), 'ending', landing)
end
schedule_run(run, now + run.idle_ttl_ms)
if not run.seen then
  redis.call('XADD', EVENTS_KEY, '*', 'e', event)
end
local retries, count = {}, 0
for _, retry in ipairs(load_retries(retry_key)) do
  if retry.run_id ~= run_id then
    retries[#retries + 1] = retry
  elseif retry_ordinal > 0 then
    count = retry.count
  end
end
retries[#retries + 1] = {run_id = run_id, ordinal = ordinal, failed = false, count = count, at = now,
  expires_at = now + DAY_MS}
if #retries > INDEX_WIDTH then
  table.remove(retries, 1)
end
save_retries(retry_key, retries)

local held = {}
for _, hold in ipairs(holds) do
  held[#held + 1] = hold[1]
  held[#held + 1] = int(hold[2])
end
return {'OK', int(ordinal), int(reserved), int(grant), run_remaining, int(now), held, warned, shadow}
