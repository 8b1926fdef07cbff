-- `EmbeddedStore.breakers`, for so many keys. {'OK', view, view, …}

local answer = {'OK'}
for _ = 1, number() do
  local name = text()
  local b = load_breaker(name)
  if b then
    answer[#answer + 1] = view(name, b)
  end
end
return answer
