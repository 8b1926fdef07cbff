-- What the scripts of baselines begin with. One is kept as a packed list: {expires_at, runs, figure, figure, …}, a
-- figure {name, weight, mean, variance}.

local BASELINE_TTL_MS = 3888000000
local MAX_FIGURES = 16

local function exact(value)
  return string.format('%.17g', value)
end
local function load_baseline(name)
  local packed = redis.call('GET', key('baseline', name))
  local row = packed and cmsgpack.unpack(packed)
  return row and row[1] >= now and row or nil
end

-- {'OK', runs, name, mean, variance, …}
local function usual(row)
  local answer = {'OK', exact(row[2])}
  for i = 3, #row do
    local figure = row[i]
    answer[#answer + 1] = figure[1]
    answer[#answer + 1] = exact(figure[3])
    answer[#answer + 1] = exact(figure[4])
  end
  return answer
end
