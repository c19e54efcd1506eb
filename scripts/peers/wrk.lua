-- Asks for what a file holds (whole requests, apart by a NUL), each time one chosen at random.
local asks = {}

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for ask in file:read("*a"):gmatch("[^%z]+") do asks[#asks + 1] = ask end
  file:close()
  math.randomseed(tonumber(args[2]))
end

function request()
  return asks[math.random(#asks)]
end

function done(summary, latency)
  local wrong = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "broken": %d, "refused": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    wrong.connect + wrong.read + wrong.write + wrong.timeout, wrong.status))
end
