# What the commands of a compiled Rexxfile do; the first argument says which of them.
# Beside this file: pieces, a file on its way here as base64; content, what is to be put; env, what comes before
# a command; out, err and status of the last command.
here=${0%/*}
what=$1
shift

received() {  # FILE SHA256: what came in pieces, when all of it did
  base64 -d <"$here/pieces" >"$1" && [ "$(sha256sum <"$1")" = "$2  -" ] || { echo "$1 did not come whole" >&2; false; }
}

as() {  # USER COMMAND
  if [ -n "$1" ]; then su -s /bin/sh "$1" -c "$2"; else /bin/sh -c "$2"; fi
}

case $what in
words)  # SHA256: the arguments came in pieces, quoted for a shell
  received "$here/words" "$1" && eval "exec /bin/sh \"\$0\" $(cat "$here/words")"
  ;;
keep)  # NAME SHA256
  received "$here/$1" "$2" && chmod 755 "$here/$1"
  ;;
run)  # any|zero USER COMMAND: with any, every status will do
  (. "$here/env" && as "$2" "$3") >"$here/out" 2>"$here/err" </dev/null
  status=$?
  echo "$status" >"$here/status"
  cat "$here/out" "$here/err" >&2
  [ "$1" = any ] || exit "$status"
  ;;
workdir)  # USER DIRECTORY
  [ -d "$2" ] || directory=$2 as "$1" 'mkdir -p "$directory"'
  ;;
put)  # TARGET NAME MODE OWNER: puts what was kept as content
  to=$1
  case $to in */) to=$to$2 ;; *) [ ! -d "$to" ] || to=$to/$2 ;; esac
  case $to in */*) mkdir -p "${to%/*}/" || exit ;; esac
  cat "$here/content" >"$to.$$" && chmod "$3" "$to.$$" && { [ -z "$4" ] || chown "$4" "$to.$$"; } &&
    mv "$to.$$" "$to" || { rm -f "$to.$$"; false; }
  ;;
tree)  # TARGET OWNER: puts what was kept as content, an archive
  : >"$here/names"
  if [ -n "$2" ]; then  # directories that are there already may be shared with others
    rm -rf "$here/tree" && mkdir "$here/tree" && tar -xzf "$here/content" -o -C "$here/tree" || exit
    (cd "$here/tree" && to=$1 find . -exec sh -c '
      for name do [ -d "$name" ] && [ -d "$to/$name" ] || printf "%s\\0" "$name"; done
    ' sh {} +) >"$here/names"
  fi
  mkdir -p "$1" && tar -xpzf "$here/content" -o -C "$1" && cd "$1" &&
    { [ ! -s "$here/names" ] || xargs -0 chown -h "$2" <"$here/names"; }
  ;;
expect)  # is|not status|text|pattern|PATTERN out|err WANTED: PATTERN takes capitals for small letters
  case $2 in
  status) [ "$(cat "$here/status")" = "$4" ] ;;
  text) case $(cat "$here/$3"; echo .) in *"$4"*) true ;; *) false ;; esac ;;
  pattern) grep -Eq -e "$4" "$here/$3" ;;
  PATTERN) grep -Eiq -e "$4" "$here/$3" ;;
  esac
  [ $? = 0 ] && holds=is || holds=not
  [ "$holds" = "$1" ]
  ;;
esac
