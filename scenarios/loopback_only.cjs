// Node preload: names other than localhost cannot be looked up, so that a scenario speaks to this computer only.
// RexxJS's REQUIRE asks a registry on the internet for what it takes to be a package.
'use strict';

const dns = require('dns');

const lookup = dns.lookup;

dns.lookup = function (hostname, options, callback) {
  const answer = callback || options;
  if (hostname === 'localhost' || /^[0-9.]+$|:/.test(hostname)) return lookup.apply(dns, arguments);
  process.nextTick(answer, Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), { code: 'ENOTFOUND' }));
};
