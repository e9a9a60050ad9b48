-- The requests that wrk sends, chosen by the first argument after "--", and one line of JSON at the
-- end. Only the pipelined and the rejected shapes define `request`: without it wrk sends one fixed
-- buffer and calls no Lua while it measures.

local PIPELINE_DEPTH = 16
local ECHO_BYTES = 10240

-- Below and above the 32 KiB of headers that kestrel takes by default.
local LARGE_HEADER_BYTES = 30720
local TOO_LARGE_HEADER_BYTES = 40960

-- Requests that a server has to refuse.
local REJECTED = {
   ["bad-request-line"] = "GET / HTTP/1.1 more\r\nHost: 127.0.0.1\r\n\r\n",
   ["bad-header"] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept : */*\r\n\r\n",
   ["no-host"] = "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n",
   ["length-and-chunked"] = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
      .. "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
   ["too-large-head"] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: "
      .. string.rep("c", TOO_LARGE_HEADER_BYTES) .. "\r\n\r\n",
}

-- What a desktop browser sends for a page; with Host, which wrk adds, there are twelve.
local BROWSER_HEADERS = {
   ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
   ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
   ["Accept-Language"] = "en-GB,en;q=0.7,de;q=0.3",
   ["Accept-Encoding"] = "gzip, deflate, br, zstd",
   ["Referer"] = "http://127.0.0.1/articles/2024/06/an-ordinary-page?from=front",
   ["Cookie"] = "session=4f1c2ab90d7e4f6b8a53c1e0d2b7a694; theme=dark; consent=necessary",
   ["Upgrade-Insecure-Requests"] = "1",
   ["Sec-Fetch-Dest"] = "document",
   ["Sec-Fetch-Mode"] = "navigate",
   ["Sec-Fetch-Site"] = "same-origin",
   ["Priority"] = "u=0, i",
}

function init(args)
   local shape = args[1]
   if shape == "browser" then
      for name, value in pairs(BROWSER_HEADERS) do
         wrk.headers[name] = value
      end
   elseif shape == "echo" then
      wrk.method = "POST"
      wrk.body = string.rep("e", ECHO_BYTES)
      wrk.headers["Content-Type"] = "application/octet-stream"
   elseif shape == "pipelined" then
      local batch = string.rep(wrk.format(), PIPELINE_DEPTH)
      request = function()
         return batch
      end
   elseif shape == "fresh" then
      wrk.headers["Connection"] = "close"
   elseif shape == "fresh-large-head" then
      wrk.headers["Connection"] = "close"
      wrk.headers["Cookie"] = string.rep("c", LARGE_HEADER_BYTES)
   elseif REJECTED[shape] then
      -- wrk parses the first request, to count what it sends at once, and would give up on these.
      local parsed = false
      request = function()
         if parsed then
            return REJECTED[shape]
         end
         parsed = true
         return wrk.format()
      end
   elseif shape ~= "plain" then
      error("unknown request shape: " .. tostring(shape))
   end
end

function done(summary, latency, requests)
   io.write(string.format(
      '{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, '
         .. '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      summary.errors.connect, summary.errors.read, summary.errors.write,
      summary.errors.status, summary.errors.timeout))
end
