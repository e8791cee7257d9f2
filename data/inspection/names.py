"""What names of columns say: patterns of names in lower case, with _ between their words."""

CLICKS = r"^(is_)?(click(ed|s)?|clk|label|target|y)$"
ACTS = (
    r"click|clk|label|buy|bought|purchase|order|install|cart|like|follow|comment|forward|share|hate|long_view|enter|download|"
    r"subscri|sign_?up|registered|checkout|favou?rite|collect|repost|retweet|reply|refund|(^|(?<!on)_)sales?(_|$)|"
    r"(^|_)(paid|payment|cv|conv|finish|finished|skip|skipped)(_|$)|attribut(ed|ion)|conver"
)
LATER = r"(play|stay|watch|dwell|view)(ed|ing)?_?(time|sec|ms|duration)|^rating$"
AFTER = (
    r"attribut(ed|ion)|conversi|convert|(^|_)conv(_|$)|"
    r"(install|purchase|order|buy|payment|refund|checkout)(ed)?_?(time|ts|timestamp|date|at|ms)(_|$)"
)
"""Names of what follows a click, unless they say that it is of the past."""
PAST = r"hist|last|past|prev|recent|before|since|(^|_)(cnt|count|num|n|rate|avg|mean|sum|total|ratio|\d+[dhm])(_|$)|seq|list"
"""Names of what was known before the row was shown, although it is about what users do after one."""
INDEX = r"^(unnamed_*\d*|_*index(_level_\d+)?_*|row_?(id|num|number|no|nr|index)|)$"
"""What pandas and databases call the number of a row."""
DATES = r"^(date|day|dt|ds|p_date)$"
SCORES = r"(^|_)(ctr|cvr|score|pred|prediction|prob|probability|propensity)(_|$)"
TIMES = r"(^|_)(time|times|ts|timestamp|timestamps|unixtime|datetime|at|ms)(_|$)"
MOMENTS = (
    r"time|stamp|(^|_)(t|ts|at|ms|date|day|dt|created|updated|published|clicked|shown|event|epoch|unix|secs?|seconds|when|"
    r"hour|hr)(_|$)"
)
"""Names of times in a wider sense than TIMES: of these, values of the size of a time are believed."""
USERS = r"^(user|uid|member|visitor|customer|account)(_?id)?$"
KEYS = (
    r"^(user|uid|member|visitor|customer|account|device|cookie|item|video|movie|article|news|product|goods|shop|author|ad)(_|$)"
)
"""Names of what comes again in another log, even if every row of this one has another."""
VISITS = r"^(session|impression|request|search)(_?id)?$"
IDS = (
    r"(^|_)(id|ids|uid|gid|idx|index|type|code|cat|category|tab|hour|weekday|feat\d*|slot|pos|position|zip|city|country|c\d+)$"
)
THINGS = r"^(user|item|video|movie|article|news|product|goods|shop|author|brand|ad|advertiser|campaign|creative|query)$"
NUMBERS = (
    r"(^|_)(num|number|count|cnt|n|age|price|amount|cost|duration|width|height|days|size|len|length|rate|avg|sum|i\d+)(_|$)"
)
SEQUENCES = r"hist|seq|recent|last|past|clicked|viewed|previous|session"
