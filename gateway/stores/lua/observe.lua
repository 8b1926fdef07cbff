-- `EmbeddedStore.observe`. The order of the operations is that of `embedded_records.weighted`.

local name, decay = text(), number()
local row = load_baseline(name) or {0, 0}
row[1], row[2] = now + BASELINE_TTL_MS, row[2] * decay + 1
local known = {}
for i = 3, #row do
  known[row[i][1]] = row[i]
end
for _ = 1, number() do
  local figure_name, value = text(), number()
  local figure = known[figure_name]
  if not figure and #row < 2 + MAX_FIGURES then
    figure = {figure_name, 0, 0, 0}
    row[#row + 1] = figure
  end
  if figure then
    local old = figure[2] * decay
    local total = old + 1
    local delta = value - figure[3]
    local mean = figure[3] + delta / total
    figure[2], figure[4] = total, math.max(0, (old * figure[4] + delta * (value - mean)) / total)
    figure[3] = mean
  end
end
redis.call('SET', key('baseline', name), cmsgpack.pack(row), 'PX', int(BASELINE_TTL_MS + SLACK_MS))
return usual(row)
