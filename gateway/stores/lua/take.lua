-- `EmbeddedStore.take`: count tool calls against every quota, or against none.
-- {'OK', place of the quota without room or -1, what each had counted …}

local function load_count(name)
  local packed = redis.call('GET', key('quota', name))
  local entry = packed and cmsgpack.unpack(packed)
  return entry and entry[1] >= now and entry[2] or nil
end

local answer, quotas, asked, refused = {'OK', '-1'}, {}, {}, false
for i = 1, number() do
  local counted, limit, amount, enforced = text(), number(), number(), flag()
  local window_ms, ttl_ms = number(), number()
  local quota = {name = counted, amount = amount, expires_at = now + ttl_ms}
  local before = 0
  if window_ms > 0 then
    local period = math.floor(now / window_ms)
    local name = counted .. ':' .. int(window_ms) .. ':'
    quota.name, quota.expires_at = name .. int(period), (period + 2) * window_ms
    before = share(load_count(name .. int(period - 1)) or 0, window_ms - now % window_ms, window_ms)
  end
  local used = (load_count(quota.name) or 0) + before
  asked[quota.name] = (asked[quota.name] or 0) + amount
  if not refused and enforced and amount ~= 0 and used + asked[quota.name] > limit then
    refused = true
    answer[2] = int(i - 1)
  end
  quotas[i] = quota
  answer[i + 2] = int(used)
end
for _, quota in ipairs(quotas) do
  local count = quota.amount ~= 0 and load_count(quota.name)
  if quota.amount ~= 0 and (count or not refused) then
    redis.call('SET', key('quota', quota.name),
      cmsgpack.pack({quota.expires_at, (count or 0) + (refused and 0 or quota.amount)}),
      'PX', int(math.max(quota.expires_at - now, 0) + SLACK_MS))
  end
end
return answer
