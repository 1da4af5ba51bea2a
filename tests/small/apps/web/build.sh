# Stands in for `next build`: writes a server, static files, and one line a run into the cache.
set -e
. ./extra.sh
server=.next/standalone/apps/web
mkdir -p $server .next/static .next/cache
cat > $server/server.js <<END
echo "$GREETING: $(cat page.txt), $(cat ../../packages/lib/generated/lib.txt), \$(id -u)"
END
echo "body {}" > .next/static/site.css
echo run >> .next/cache/runs
