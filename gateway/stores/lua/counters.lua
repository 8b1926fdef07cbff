-- `EmbeddedStore.counters`. {'OK', used, reserved, used, reserved, …}

local answer = {'OK'}
for _ = 1, number() do
  local c = counter(text())
  answer[#answer + 1] = int(c.used)
  answer[#answer + 1] = int(c.reserved)
end
return answer
