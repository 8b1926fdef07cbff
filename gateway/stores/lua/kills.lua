-- `EmbeddedStore.kills`, flags set by hand included. {'OK', reason with a leading '+' or '', …}

local raw_kills, keys = flag(), {}
local count = number()
for i = 1, count do
  local name = text()
  keys[i] = key('kill', name)
  if raw_kills then
    keys[count + i] = 'kill:' .. name
  end
end
local flags = redis.call('MGET', unpack(keys))
local answer = {'OK'}
for i = 1, count do
  local reason = killed(flags[i]) or flags[count + i]
  answer[i + 1] = reason and '+' .. reason or ''
end
return answer
