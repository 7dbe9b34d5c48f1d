# Runs each line that comes in by the console, and says where what it writes begins and ends.
stty -echo 2>/dev/null
echo "guest: ready"
while read -r line; do
    answer=$( (eval "$line") 2>&1 </dev/null)
    status=$?
    echo "guest: begin"
    [ -z "$answer" ] || echo "$answer"
    echo "guest: end $status"
done
