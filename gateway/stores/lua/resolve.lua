-- `EmbeddedStore.resolve`: find the run of a request, or open one.
-- {'OK', run id, session, source, new, explicit, name, continues, retry ordinal, merged, status, started_at,
--  steps, cost, idle_ms, ancestors, progress, landed, asked by, policy}

local new_run_id, session, session_given = text(), text(), flag()
local name, name_key, named_source, own_run_id = text(), text(), text(), text()
local principal, retry_key, retry_declared = text(), text(), flag()
local speaks_text, idle_ttl_ms, text_gap_ms = flag(), number(), number()
local evidence = {}
for i = 1, number() do
  evidence[i] = {key = text(), source = text(), then_user = flag()}
end
local parent_run_id, parents, known_as = text(), {}, {}
for i = 1, number() do
  parents[i] = text()
end
for i = 1, number() do
  known_as[i] = text()
end
local tasks = {}
for i = 1, number() do
  tasks[i] = text()
end
local policy = text()

local runs = {}
local function run_of(id)
  if runs[id] == nil then
    runs[id] = load_run(id) or false
  end
  return runs[id] or nil
end

local function is_idle(run)
  return run.open == 0 and now - run.last_at > run.idle_ttl_ms
end

local function is_over(run, proof)
  if not proof.then_user or run.status == 'killed' then
    return false
  end
  if run.landed > 0 then
    return not (speaks_text and now - run.last_at <= text_gap_ms)
  end
  if run.status ~= 'completed' then
    return false
  end
  return not (speaks_text and now - run.answered_at <= text_gap_ms)
end

local function named()
  if own_run_id ~= '' then
    local run = run_of(string.sub(own_run_id, 2))
    if run and run.principal == principal then
      return run
    end
  end
  local ids = lookup_index(string.sub(name_key, 2))
  return #ids > 0 and run_of(ids[#ids]) or nil
end

local function one_of(reached, place)
  for _, e in ipairs(evidence) do
    if e.source == 'emitted_id' then
      local ids = lookup_index(e.key)
      for _, run in ipairs(#ids == 1 and reached or {}) do
        if run.id == ids[1] then
          return run
        end
      end
    end
  end
  local found = reached[#reached]
  for _, run in ipairs(reached) do
    if run.head == place and run.open == 0 then
      found = run
      if now - run.last_at <= text_gap_ms then
        break
      end
    end
  end
  return found
end

local function leave(run)
  if run.head ~= '' then
    redis.call('HSET', key('run', run.id), 'head', '')
    run.head = ''
  end
end

local function match()
  local found, proof, merged = nil, nil, false
  for _, e in ipairs(evidence) do
    if not found or e.source == 'emitted_id' then
      local reached = {}
      for _, id in ipairs(lookup_index(e.key)) do
        reached[#reached + 1] = run_of(id)
      end
      if #reached > 0 then
        if found then
          local foreign = true
          for _, run in ipairs(reached) do
            foreign = foreign and run.session ~= found.session
          end
          merged = merged or foreign
        elseif e.source == 'lineage' then
          found, proof = #reached == 1 and reached[1] or one_of(reached, e.key), e
        elseif e.source == 'server_state' then
          found, proof = reached[#reached], e
        elseif #reached == 1 then
          found, proof = reached[1], e
        end
      end
    end
  end
  return found, proof, merged
end

local retries = load_retries(retry_key)
local function repeated(id)
  local latest, failed = nil, nil
  for _, retry in ipairs(retries) do
    if now - retry.at <= RETRY_WINDOW_MS and retry.count < MAX_RETRIES
        and (not id or retry.run_id == id) and run_of(retry.run_id) then
      latest = retry
      if retry.failed and (not failed or retry.count <= failed.count) then
        failed = retry
      end
    end
  end
  return failed or (retry_declared and latest or nil)
end

local found, continued, merged, retry = nil, nil, false, nil
local source = session_given and 'session' or 'new'
if name_key ~= '' then
  source = named_source
  found = named()
  if found and is_idle(found) then
    continued, found = found, nil
  end
  retry = found and repeated(found.id)
else
  retry = repeated()
  if retry then
    found, source = run_of(retry.run_id), 'retry'
  else
    local proof
    found, proof, merged = match()
    if found then
      leave(found)
      if is_idle(found) or is_over(found, proof) then
        continued, found = found, nil
      else
        source = proof.source
      end
    end
  end
end

-- The ancestors of a run that is being opened, the declared parent first.
local function line()
  local parent = parent_run_id ~= '' and run_of(string.sub(parent_run_id, 2)) or nil
  if parent and parent.principal ~= principal then
    parent = nil
  end
  for _, name in ipairs(parents) do
    local ids = parent and {} or lookup_index(name)
    for i = #ids, 1, -1 do
      parent = parent or run_of(ids[i])
    end
  end
  local ids = {}
  if parent then
    local above = redis.call('HGET', key('run', parent.id), 'ancestors') or ''
    for id in string.gmatch(parent.id .. '\n' .. above, '[^\n]+') do
      if id ~= new_run_id then
        ids[#ids + 1] = id
      end
    end
    while #ids > MAX_ANCESTORS do
      table.remove(ids, #ids - 1)
    end
  end
  return ids
end

-- The one run that passed on what a run that is being opened is told to do.
local function asker()
  local only = ''
  for _, name in ipairs(tasks) do
    for _, id in ipairs(lookup_index(name)) do
      local run = run_of(id)
      if run and run.principal == principal and id ~= only then
        if only ~= '' then
          return ''
        end
        only = id
      end
    end
  end
  return only
end

local function know_as(name)
  local ids = {}
  for _, id in ipairs(lookup_index(name)) do
    if id ~= found.id then
      ids[#ids + 1] = id
    end
  end
  ids[#ids + 1] = found.id
  if #ids > INDEX_WIDTH then
    table.remove(ids, 1)
  end
  save_index(name, ids, now + idle_ttl_ms + DAY_MS)
end

local is_new = not found
local ancestors, progress, asked_by = {}, '', ''
if found then
  leave(found)
  local row = redis.call('HMGET', key('run', found.id), 'ancestors', 'progress', 'policy')
  for id in string.gmatch(row[1] or '', '[^\n]+') do
    ancestors[#ancestors + 1] = id
  end
  progress = row[2] or ''
  policy = row[3] or ''
else
  if continued and not session_given then
    session = continued.session
  end
  found = {
    id = new_run_id, session = session, explicit = name_key ~= '', name = name,
    continues = continued and '+' .. continued.id or '', status = 'running', started_at = now, steps = 0, cost = 0,
    last_at = now, idle_ttl_ms = idle_ttl_ms, landed = 0,
  }
  ancestors = line()
  asked_by = #ancestors == 0 and asker() or ''
  redis.call('HSET', key('run', new_run_id), 'principal', principal, 'session', session, 'name', name, 'explicit', bit(found.explicit),
    'continues', found.continues, 'started_at', int(now), 'last_at', int(now), 'idle_ttl_ms', int(idle_ttl_ms),
    'status', 'running', 'reason', '', 'seen', '', 'steps', '0', 'open', '0', 'tool_calls', '0', 'tokens', '0',
    'cost', '0', 'reserved', '0', 'head', '', 'answered_at', '0', 'budget', '', 'budget_limit', '0', 'policy', policy)
  if #ancestors > 0 then
    redis.call('HSET', key('run', new_run_id), 'ancestors', table.concat(ancestors, '\n'))
  end
  schedule_run(found, now + UNSEEN_RUN_TTL_MS)
  if name_key ~= '' then
    save_index(string.sub(name_key, 2), {new_run_id}, now + idle_ttl_ms + DAY_MS)
  end
end
for _, name in ipairs(known_as) do
  know_as(name)
end
local ordinal = 0
if retry then
  retry.count = retry.count + 1
  ordinal = retry.ordinal
  save_retries(retry_key, retries)
end
return {
  'OK', found.id, found.session, source, bit(is_new), bit(found.explicit), found.name, found.continues,
  int(ordinal), bit(merged), found.status, int(found.started_at), int(found.steps), int(found.cost), int(now - found.last_at),
  ancestors, progress, int(found.landed), asked_by, policy,
}
