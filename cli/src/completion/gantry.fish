# Completion of gantry for fish: gantry completion fish | source
function __gantry_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    for line in ($program __complete -- $words (commandline -ct) 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c gantry -f -a '(__gantry_complete)'
