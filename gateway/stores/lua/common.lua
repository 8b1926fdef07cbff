-- What every script begins with: keys, time, arguments, numbers.
--
-- KEYS[1]  the epoch key; every other key is derived from it and shares its hash tag
-- ARGV[1]  the time in ms since the epoch, for tests alone; empty means the server's own clock
-- ARGV[2]  the epoch for scripts that need a seeded database, else empty
--
-- Numbers are doubles and exact up to 2^53. They are stored and returned as '%.0f', because Lua's own
-- conversion keeps fourteen digits and money has more. Lifetimes are relative to `now`, and a little longer than
-- the moment at which a record stops counting: expiry by Redis frees memory and decides nothing.

local DAY_MS = 86400000
local MINUTE_MS = 60000
local SLACK_MS = 1800000
local RETRY_WINDOW_MS = 60000
local MAX_RETRIES = 10
local INDEX_WIDTH = 128
local SETTLED_MEMORY_MS = 3600000
local PROVISIONAL_MEMORY_MS = DAY_MS
local MAX_ANCESTORS = 8
local UNSEEN_RUN_TTL_MS = 600000
local UNDATED_COUNTER_MS = 35 * DAY_MS

local EPOCH_KEY = KEYS[1]
local TAG = string.sub(EPOCH_KEY, 1, -6)
local LEASES_KEY, LIVE_KEY, EVENTS_KEY = TAG .. 'leases', TAG .. 'live', TAG .. 'events'

local function key(kind, id)
  return TAG .. kind .. ':' .. id
end

if ARGV[2] ~= '' and redis.call('GET', EPOCH_KEY) ~= ARGV[2] then
  return {'EPOCH'}
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local at = 2
local function text()
  at = at + 1
  return ARGV[at]
end
local function number()
  at = at + 1
  return tonumber(ARGV[at])
end
local function flag()
  at = at + 1
  return ARGV[at] == '1'
end

local function int(value)
  return string.format('%.0f', value + 0)
end
local function bit(value)
  return value and '1' or ''
end
-- The integer part of `amount * part / whole`, exact where the product may pass 2^53.
local function share(amount, part, whole)
  local rest = math.fmod(amount, whole)
  return (amount - rest) / whole * part + math.floor(rest * part / whole)
end

-- A kill flag of ours holds `until:reason`, one set by hand the reason alone.
local function killed(stored)
  if not stored then
    return nil
  end
  local colon = string.find(stored, ':', 1, true)
  local ends = tonumber(string.sub(stored, 1, colon - 1))
  if ends > 0 and ends <= now then
    return nil
  end
  return string.sub(stored, colon + 1)
end
