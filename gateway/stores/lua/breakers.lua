-- `EmbeddedStore.breakers`: of so many keys, or of all, in any order, for -1. {'OK', view, view, …}

local names, count = {}, number()
if count < 0 then
  names = redis.call('ZRANGEBYSCORE', BREAKERS_KEY, int(now), '+inf')
end
for i = 1, count do
  names[i] = text()
end
local answer = {'OK'}
for _, name in ipairs(names) do
  local b = load_breaker(name)
  if b then
    answer[#answer + 1] = view(name, b)
  end
end
return answer
