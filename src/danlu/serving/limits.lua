-- The window and the quota of limits.py for one key, kept in Redis. One call is one act; Redis runs them one by one.
--
-- KEYS  1 the key's figures: o the oldest second that counts · R T the window's sums · r<i> t<i> those of a second,
--         i its remainder by 64 · m the month · q what it spent (absent: not known) · om oq the same of another month
--         that is known · p what is reserved
--       2 its leases, sorted by their end; a lease reads id|second|month|tokens
-- ARGV  1 act · 2 now (0: by Redis' clock) · then as each act says
local WINDOW, RING = 60, 64
local act, now = ARGV[1], tonumber(ARGV[2])
if now == 0 then
  local clock = redis.call('TIME')
  now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
end

if act == 'renew' then -- 3 seconds · 4... leases
  for i = 4, #ARGV do redis.call('ZADD', KEYS[2], 'XX', now + tonumber(ARGV[3]), ARGV[i]) end
  return 1
end

-- Months since year 0, in UTC (Howard Hinnant, chrono-compatible low-level date algorithms: civil_from_days).
local function month_of(time)
  local days = math.floor(time / 86400) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local march = math.floor((5 * of_year + 2) / 153) -- 0 is March
  return (year + era * 400) * 12 + march + 2
end

local known = redis.call('HMGET', KEYS[1], 'o', 'R', 'T', 'm', 'q', 'p', 'om', 'oq')
local o, R, T = tonumber(known[1]) or 0, tonumber(known[2]) or 0, tonumber(known[3]) or 0
local m, q, p = tonumber(known[4]) or 0, tonumber(known[5]), tonumber(known[6]) or 0
local om, oq = tonumber(known[7]) or 0, tonumber(known[8])

local function whole(number) return string.format('%.0f', number) end

local function ring_of(letter, first, last)
  local fields = {}
  for second = first, last do fields[#fields + 1] = letter .. second % RING end
  return fields, redis.call('HMGET', KEYS[1], unpack(fields))
end

-- A clock that was set back to before the window: all that counted counts as of now, for a minute more.
if math.floor(now) < o then
  local all = {}
  for i = 0, RING - 1 do
    all[#all + 1] = 'r' .. i
    all[#all + 1] = 't' .. i
  end
  redis.call('HDEL', KEYS[1], unpack(all))
  local here = math.floor(now) % RING
  redis.call('HSET', KEYS[1], 'r' .. here, whole(R), 't' .. here, whole(T))
  o = math.floor(now) - WINDOW
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now + WINDOW, '+inf')) do
    redis.call('ZADD', KEYS[2], now + WINDOW, lease)
  end
end

-- Seconds that no longer count are let go of, then a month that is over, then leases that nobody renewed.
local second = math.floor(now)
local edge = second - WINDOW
if o < edge then
  if R > 0 or T > 0 then
    local last, gone = math.min(edge, o + RING) - 1, {}
    for _, letter in ipairs({'r', 't'}) do
      local fields, found = ring_of(letter, o, last)
      for i = 1, #fields do
        if found[i] then
          gone[#gone + 1] = fields[i]
          if letter == 'r' then R = R - tonumber(found[i]) else T = T - tonumber(found[i]) end
        end
      end
    end
    if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
  end
  o = edge
end
local month = month_of(now)
if month == om then
  m, q, om, oq = om, oq, m, q
elseif month > m then
  m, q, om, oq = month, nil, m, q
end

-- More or less tokens in a second. One that is still to come is of before the clock was set back: it is in the sum of
-- then, which nothing is taken from.
local function correct(of_second, more)
  if of_second > second then
    if more < 0 then return end
    of_second = second
  end
  if of_second >= o and more ~= 0 then
    T = T + more
    redis.call('HINCRBY', KEYS[1], 't' .. of_second % RING, whole(more))
  end
end

for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now * 1000) / 1000)) do
  local of_second, tokens = string.match(lease, '|(%d+)|%d+|(%d+)$')
  p = p - tonumber(tokens)
  correct(tonumber(of_second), -tonumber(tokens))
  redis.call('ZREM', KEYS[2], lease)
end

local function kept()
  redis.call('HSET', KEYS[1], 'o', whole(o), 'R', whole(R), 'T', whole(T), 'm', m, 'p', whole(p), 'om', om)
  if q then redis.call('HSET', KEYS[1], 'q', whole(q)) else redis.call('HDEL', KEYS[1], 'q') end
  if oq then redis.call('HSET', KEYS[1], 'oq', whole(oq)) else redis.call('HDEL', KEYS[1], 'oq') end
  redis.call('EXPIRE', KEYS[1], 40 * 86400)
end

if act == 'restore' then -- 3 what usage says was spent · 4 in which month
  local spent, of_month = tonumber(ARGV[3]), tonumber(ARGV[4])
  if of_month == m then
    q = math.max(q or 0, spent - p)
  elseif of_month == om then
    oq = math.max(oq or 0, spent)
  end
  kept()
  return 1
end

if act == 'charge' then -- 3 how many seconds ago · 4 requests · 5 tokens, which were admitted while this was away
  local of_second, requests = second - tonumber(ARGV[3]), tonumber(ARGV[4])
  if of_second >= o then
    R = R + requests
    redis.call('HINCRBY', KEYS[1], 'r' .. of_second % RING, whole(requests))
    correct(of_second, tonumber(ARGV[5]))
  end
  kept()
  return 1
end

if act == 'settle' then -- 3 lease · 4 its second · 5 its month · 6 reserved · 7 used · 8 whether it may have come before
  local of_month, was, used = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  if redis.call('ZREM', KEYS[2], ARGV[3]) == 0 then
    if ARGV[8] == '1' then return 0 end
    was = 0 -- it had run out and was given back
  end
  correct(tonumber(ARGV[4]), used - was)
  p = p - was
  if of_month == m then
    if q then q = q + used end
  elseif of_month == om then
    if oq then oq = oq + used end
  end
  kept()
  return 1
end

-- reserve: 3 tokens · 4 requests a minute · 5 tokens a minute · 6 concurrency · 7 tokens a month
--          8 what usage says was spent (-1: not asked) · 9 lease · 10 its seconds
local tokens, rpm, tpm = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local most, quota, spent = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if quota > 0 and not q then
  if spent < 0 then
    kept()
    return {-1, 0, 0, '0', '', m}
  end
  q = math.max(0, spent - p)
end

local function free_after(letter, wanted)
  local _, found = ring_of(letter, o, o + RING - 1)
  for i = 1, RING do
    wanted = wanted - (tonumber(found[i]) or 0)
    if wanted <= 0 then return math.max(0.001, o + i - 1 + WINDOW + 1 - now) end
  end
  return WINDOW
end

local what, retry = 0, 0
if rpm > 0 and R + 1 > rpm then
  what, retry = 1, free_after('r', R + 1 - rpm)
elseif tpm > 0 and T + tokens > tpm then
  what = 2
  if tokens <= tpm then retry = free_after('t', T + tokens - tpm) end
elseif most > 0 and redis.call('ZCARD', KEYS[2]) + 1 > most then
  what, retry = 3, 1
elseif quota > 0 and q + p + tokens > quota then
  what = 4
end
local lease = ''
if what == 0 then
  R, T, p = R + 1, T + tokens, p + tokens
  redis.call('HINCRBY', KEYS[1], 'r' .. second % RING, 1)
  redis.call('HINCRBY', KEYS[1], 't' .. second % RING, whole(tokens))
  lease = ARGV[9] .. '|' .. whole(second) .. '|' .. m .. '|' .. whole(tokens)
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[10]), lease)
  redis.call('EXPIRE', KEYS[2], 86400)
end
kept()
return {what, R, T, tostring(retry), lease, m}
